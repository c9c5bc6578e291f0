import t from 'tap';
import { collectEnvironment } from '../../examples/demo/environment.ts';
import { renderReport } from '../../examples/demo/report.ts';
import { malformed } from './markup.ts';
import { estimate, reportFixture } from './report-fixture.ts';

const textOf = (page: string): string =>
  page
    .replace(/<style>.*?<\/style>/gs, '')
    .replace(/<[^>]*>/g, ' ')
    .replace(/\s+/g, ' ');

t.test('the report is one well-formed page that needs nothing else', async (t) => {
  const page = await renderReport(reportFixture());
  t.equal(malformed(page), null);
  t.same(page.match(/https?:[^"<\s]*/g), ['https://arxiv.org/abs/2406.02756']);
  t.notMatch(page, /<(script|link|img|iframe)|@import|url\(|\bon\w+="/);
  t.match(page, /<meta name="viewport"/);
  t.equal([...page.matchAll(/<svg/g)].length, 2);
  const titles = [...page.matchAll(/<h2>(.*?)<\/h2>/g)].map(([, title]) => title);
  t.same(titles, [
    'The arms',
    'Learning curves',
    'What the token reward model sees',
    'What an edit does',
    'The reward models',
    'How it was made',
  ]);
  t.same(await renderReport(reportFixture()), page, 'the same data give the same page');
});

t.test('the headline says what the interval allows', async (t) => {
  const headline = async (value: number, swap = false) => {
    const data = reportFixture();
    const entry = data.head_to_head.at(-1)!;
    entry.win_rate = estimate(value, 300);
    if (swap) [entry.candidate, entry.baseline] = [entry.baseline, entry.candidate];
    return /<h1>(.*?)<\/h1>/s.exec(await renderReport(data))![1]!.replaceAll('\u00a0', ' ');
  };
  t.equal(
    await headline(0.633),
    'Fine-grained PPO beats sequence PPO on 63.3 % [57.8, 68.8] of 300 prompts, at KL 4.6 against 7.1.',
  );
  t.match(
    await headline(0.53),
    /cannot be told apart: fine-grained PPO wins 53\.0 % .* contains 50 %, at KL/,
  );
  t.match(await headline(0.4), /^Fine-grained PPO loses to sequence PPO: it wins 40\.0 % \[34\.5, 45\.5\]/);
  t.match(
    await headline(0.4, true),
    /beats sequence PPO on 60\.0 % \[54\.5, 65\.5\]/,
    'judged the other way round',
  );
  const data = reportFixture();
  data.head_to_head.pop();
  await t.rejects(renderReport(data), /no win rate of fine-grained PPO over sequence PPO/);
});

t.test('every text from data is escaped', async (t) => {
  const hostile = `<script>alert("1 & 2")</script> it's`;
  const seen: string[] = [];
  const spoil = (value: unknown, key = ''): unknown => {
    if (Array.isArray(value)) return value.map((item) => spoil(item, key));
    if (value instanceof Date || value === null) return value;
    if (typeof value === 'object')
      return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, spoil(item, name)]));
    if (typeof value !== 'string' || ['candidate', 'baseline', 'arm', 'kind'].includes(key)) return value;
    seen.push(key);
    return key === 'name' && arms.includes(value) ? value : `${hostile}${value}`;
  };
  const fixture = reportFixture();
  const arms = fixture.arms.map(({ name }) => name);
  const page = await renderReport(spoil(fixture) as typeof fixture);
  t.equal(malformed(page), null);
  t.notMatch(page, '<script>');
  t.match(page, '&lt;script&gt;alert(&quot;1 &amp; 2&quot;)&lt;/script&gt; it&#39;s');
  t.ok(seen.includes('tokens') && seen.includes('prompt') && seen.includes('description'));

  const named = reportFixture();
  const rename = (name: string) => (name === 'sequence PPO' ? hostile : name);
  for (const arm of named.arms) arm.name = rename(arm.name);
  for (const entry of [...named.head_to_head, named.headline])
    [entry.candidate, entry.baseline] = [rename(entry.candidate), rename(entry.baseline)];
  const renamed = await renderReport(named);
  t.equal(malformed(renamed), null);
  t.notMatch(renamed, '<script>', 'names of arms, in charts too');
});

t.test('tokens are shaded by reward and carry it as a title', async (t) => {
  const data = reportFixture();
  data.heat_map = [
    {
      prompt: 'Say hi.',
      responses: [
        { label: 'whole', tokens: ['Hi', ' damn', '.', ''], rewards: [-0.01, -2, 0.3, -0.5], reward: -2.21 },
        { label: 'shared', tokens: ['', '', '👍'], rewards: [-0.1, -0.2, -0.3], reward: -0.6 },
      ],
    },
  ];
  const page = await renderReport(data);
  t.match(page, '<span class="t" style="--a:0.004" title="−0.010">Hi</span>');
  t.match(
    page,
    ' <span class="t" style="--a:0.800" title="−2.000">damn</span>',
    'the space before it is not shaded',
  );
  t.match(page, '<span class="t" style="--a:0.000" title="0.300">.</span>', 'nothing to blame above zero');
  t.match(page, 'title="−0.500"><span class="end">end</span></span>', 'the end of the response shows');
  t.match(page, '<span class="t" style="--a:0.240" title="−0.600 (3 tokens)">👍</span>');
  t.match(page, '<span class="sum">−2.21</span>');
  t.match(textOf(page), /0 −2\.00 reward of a token/, 'the legend ends at the lowest reward');
});

t.test('an edit shows what was deleted and inserted, with the difference of each segment', async (t) => {
  const data = reportFixture();
  const [original, edited] = ['Hi Bob, come. Bye.', 'Hi Gus, come. Please. Bye.'];
  const segment = (kind: string, from: number[], to: number[], before: number, after: number) => ({
    kind,
    original: from,
    edited: to,
    original_reward: before,
    edited_reward: after,
    difference: after - before,
  });
  const segments = [
    segment('keep', [0, 3], [0, 3], -0.01, -0.01),
    segment('replace', [3, 6], [3, 6], -0.9, -0.1),
    segment('keep', [6, 14], [6, 14], -0.02, -0.03),
    segment('insert', [14, 14], [14, 22], 0, -0.06),
    segment('keep', [14, 18], [22, 26], -0.7, -0.1),
  ] as (typeof data.edits)[number]['comparison']['segments'];
  const end = { original_reward: -1, edited_reward: -0.5, difference: 0.5 };
  const total = { original_reward: -2.63, edited_reward: -0.8, difference: 1.83 };
  data.edits = [{ prompt: 'Write.', original, edited, comparison: { segments, end, ...total } }];
  const page = await renderReport(data);
  const edit = /<p class="text edit">(.*?)<\/p>/s.exec(page)![1]!;
  t.match(edit, '<span class="figure better">+0.80</span><span><del>Bob</del> <ins>Gus</ins></span>');
  t.match(
    edit,
    '<span class="figure worse">−0.06</span><span><ins>Please.</ins></span></span> <span',
    'space outside',
  );
  t.match(
    edit,
    '<span class="figure better">+0.60</span><span>Bye.</span>',
    'kept text that an insertion mends',
  );
  t.match(edit, '<span class="figure better">+0.50</span><span><span class="end">end</span></span>');
  t.equal([...edit.matchAll(/class="figure/g)].length, 4, 'kept text without a difference has no figure');
  t.match(textOf(page), /Whole response: −2\.63 → −0\.80, \+1\.83/);
  t.match(textOf(page), /keep , come\. −0\.020 −0\.030 −0\.010/, 'the table has all segments');
});

t.test('figures, gate and making are on the page; what is unknown is said to be', async (t) => {
  const data = reportFixture();
  data.gate[1]!.passed = false;
  data.made.leaves_out = 'half of the pairs';
  data.made.environment = { ...data.made.environment, cpu: null, python: null, torch: null, git: null };
  const text = textOf(await renderReport(data));
  t.match(
    text,
    /token rewards loss survival 0\.956 \[0\.939, 0\.973\] 574 edits 0\.838 .* 599 pairs 0\.949 \[0\.944, 0\.955\] 574 edits/,
  );
  t.match(
    text,
    /Gate missed \(token reward model\): pair_accuracy 0\.838 reaches .* bad_token_auc 0\.949 misses its minimum of 0\.90/,
  );
  t.match(text, /majority of five noisy votes/);
  t.match(text, /Commit unknown .* CPU unknown, 2 cores, 16 GiB .* Python unknown PyTorch unknown/);
  t.match(text, /half of the pairs/);
  t.match(text, /in all 322\.5/);
  t.match(text, /learning_rate 0\.003/);
  t.match(
    text,
    /intervals are over the prompts of one draw of the data with one training seed.* bench\/RESULTS\.md/,
  );
  const committed = textOf(await renderReport(reportFixture()));
  t.match(committed, /Commit 3a7e63ed0b1c, with changes that are not committed/);
});

t.test('the environment is collected, as far as it can be had', async (t) => {
  const python = process.env.FINEGRAIN_PYTHON;
  const environment = await collectEnvironment(python);
  t.match(environment, {
    operating_system: /./,
    cores: Number,
    memory_gib: Number,
    node: process.versions.node,
  });
  if (python) t.match(environment, { python: /^3\.\d+/, torch: /^\d+\./ });
  if (environment.git) t.match(environment.git, { commit: /^[0-9a-f]{40,}$/, dirty: Boolean });
  t.match(await collectEnvironment('/no/such/python'), { python: null, torch: null });
});

t.test('the check of markup finds what is wrong', async (t) => {
  t.equal(malformed('<!doctype html>\n<p class="a" id="b">a &amp; b<br>c</p>'), null);
  for (const wrong of [
    '<p>a & b</p>',
    '<p>a < b</p>',
    '<p>',
    '</p>',
    '<p><b></p></b>',
    '<p class=a></p>',
    '<p a="1" a="2"></p>',
    '<p title="a & b"></p>',
    '<p title="a"b"></p>',
    '<style>a',
    'text',
  ])
    t.not(malformed(wrong), null, wrong);
});
