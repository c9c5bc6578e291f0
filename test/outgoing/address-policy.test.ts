// The hostile spellings, and what the operator may allow. Nothing here connects to anything.
import t from 'tap';
import { checkUrl, readAddressPolicy } from '../../src/outgoing/address-policy.ts';

const closed = readAddressPolicy([]);

t.test('addresses: only plain global unicast passes', async (t) => {
  const refused = {
    loopback: ['127.0.0.1', '127.255.255.254', '::1'],
    unspecified: ['0.0.0.0', '0.1.2.3', '::'],
    private: ['10.0.0.1', '172.16.0.1', '172.31.255.255', '192.168.1.1', 'fc00::1', 'fd12:3456::1'],
    'link-local': ['169.254.0.1', 'fe80::1', 'fe80::1%eth0', 'febf::1', 'fec0::1'],
    metadata: ['169.254.169.254', 'fd00:ec2::254', '100.100.100.200', '192.0.0.192', '168.63.129.16'],
    'carrier-grade NAT': ['100.64.0.1', '100.127.255.255'],
    multicast: ['224.0.0.1', '239.255.255.255', 'ff02::1'],
    broadcast: ['255.255.255.255'],
    reserved: [
      '192.0.0.8',
      '192.0.2.1',
      '198.51.100.1',
      '203.0.113.1',
      '198.18.0.1',
      '240.0.0.1',
      '192.88.99.1',
    ],
    'reserved v6': [
      '2001:db8::1',
      '3fff::1',
      '100::1',
      '5f00::1',
      '4000::1',
      '2001:2::1',
      '2001:10::1',
      '2001:20::1',
    ],
    'IPv4-mapped': ['::ffff:127.0.0.1', '::ffff:10.0.0.1', '::ffff:a9fe:a9fe', '::ffff:0:127.0.0.1'],
    'IPv4-compatible': ['::127.0.0.1', '::10.0.0.1'],
    NAT64: ['64:ff9b::127.0.0.1', '64:ff9b::a9fe:a9fe', '64:ff9b:1::10.0.0.1', '64:ff9b:1::8.8.8.8'],
    '6to4': ['2002:7f00:1::', '2002:a00:1::1', '2002:808:808::1'],
    Teredo: ['2001::1', '2001:0:7f00:1::', '2001:0:4136:e378:8000:63bf:f5ff:fffe'],
  };
  for (const [kind, addresses] of Object.entries(refused))
    for (const address of addresses) t.notOk(closed.allowsAddress(address), `${kind}: ${address}`);
  for (const address of [
    '1.1.1.1',
    '8.8.8.8',
    '172.15.255.255',
    '172.32.0.1',
    '100.63.255.255',
    '100.128.0.1',
    '169.253.0.1',
    '168.63.129.17',
    '2606:4700:4700::1111',
    '2a00:1450::1',
    '::ffff:8.8.8.8',
    '64:ff9b::8.8.8.8',
  ])
    t.ok(closed.allowsAddress(address), address);
});

t.test('URLs that are refused before anything is resolved, however they are spelt', async (t) => {
  for (const url of [
    'http://127.0.0.1/',
    'http://127.1/',
    'http://0x7f.1/',
    'http://0x7f000001/',
    'http://2130706433/',
    'http://0177.0.0.1/',
    'http://017700000001/',
    'http://127.0.0.1./',
    'http://127.0.0.1.:80/',
    'http://%31%32%37.0.0.1/',
    'http://①②⑦.⓪.⓪.①/',
    'http://１２７.0.0.1/',
    'http://127。0。0。1/',
    'http://0/',
    'http://0.0.0.0/',
    'http://[::]/',
    'http://[::1]/',
    'http://[0:0:0:0:0:0:0:1]/',
    'http://[::ffff:127.0.0.1]/',
    'http://[::ffff:7f00:1]/',
    'http://[::127.0.0.1]/',
    'http://[64:ff9b::7f00:1]/',
    'http://[2002:7f00:1::]/',
    'http://[fe80::1%25eth0]/',
    'http://[fd00:ec2::254]/latest/meta-data/',
    'http://169.254.169.254/latest/meta-data/',
    'http://0xa9fea9fe/',
    'http://10.0.0.1:8080/',
    'http:/10.0.0.1/',
    'http:\\\\10.0.0.1\\',
    'http://\t10.0.0.1/',
    'https://localhost/',
    'https://LOCALHOST/',
    'https://ｌocalhost/',
    'https://local­host/',
    'https://localhost./',
    'https://deep.localhost/',
    'https://example.com./',
    'https://user@example.com/',
    'https://:password@example.com/',
    'https://example.com@127.0.0.1/',
    'http://127.0.0.1#@example.com/',
    'http://127.0.0.1\\@example.com/',
    'http://example.com:22/',
    'http://example.com:25/',
    'http://example.com:0/',
    'http://example.com:6000/',
    'http://example.com:6667/',
    'http://example.com:65536/',
    'https://exa mple.com/',
    'https://',
    'example.com',
    '//example.com/',
    '',
    'ftp://example.com/',
    'file:///etc/passwd',
    'gopher://example.com/',
    'data:text/plain,x',
    'javascript:1',
    'unix:/var/run/docker.sock',
    'ws://example.com/',
  ])
    t.throws(() => checkUrl(closed, url), { code: 'refused_address' }, JSON.stringify(url));
  for (const [url, host] of [
    ['https://example.com/hook?a=1', 'example.com'],
    ['http://example.com:80', 'example.com'],
    ['https://example.com:8443/', 'example.com:8443'],
    ['https://EXAMPLE.com/', 'example.com'],
    ['https://bücher.example/', 'xn--bcher-kva.example'],
    ['https://localhost.example.com/', 'localhost.example.com'],
    ['http://134744072/', '8.8.8.8'],
    ['https://[2606:4700:4700::1111]/', '[2606:4700:4700::1111]'],
  ] as const)
    t.equal(checkUrl(closed, url).host, host, url);
});

t.test('what the operator allows: addresses, ranges, host names, and nothing beside them', async (t) => {
  const policy = readAddressPolicy(['127.0.0.0/8', '10.1.2.3', 'fd00::/8', 'Hooks.Internal', 'bücher.local']);
  for (const address of ['127.0.0.1', '127.9.9.9', '::ffff:127.0.0.1', '10.1.2.3', 'fd12::1', '8.8.8.8'])
    t.ok(policy.allowsAddress(address), address);
  for (const address of ['10.1.2.4', '10.1.2.2', '::1', 'fc00::1', '192.168.0.1', '64:ff9b::10.1.2.4'])
    t.notOk(policy.allowsAddress(address), address);
  t.ok(policy.allowsHost('hooks.internal'));
  t.ok(policy.allowsHost('xn--bcher-kva.local'));
  t.notOk(policy.allowsHost('evil.hooks.internal'));
  t.notOk(policy.allowsHost('internal'));
  t.equal(checkUrl(policy, 'http://0x7f.1:8080/').host, '127.0.0.1:8080');
  t.throws(() => checkUrl(policy, 'http://hooks.internal./'), { code: 'refused_address' });
  t.throws(() => checkUrl(policy, 'http://127.0.0.1:22/'), { code: 'refused_address' }, 'ports stay');
  t.ok(checkUrl(readAddressPolicy(['localhost']), 'http://localhost:3000/'));
  for (const entry of [
    '10.0.0.0/33',
    '10.0.0',
    '::/129',
    'a/b',
    'http://a',
    'a:80',
    'a.',
    'a@b',
    '*',
    '',
    '10.0.0.0/',
  ])
    t.throws(
      () => readAddressPolicy([entry]),
      { message: /FINEGRAIN_OUTGOING_ALLOW lists/ },
      JSON.stringify(entry),
    );
});
