import t from 'tap';
import { entityTag, matchesStrongly, matchesWeakly, parseEntityTags } from '../../src/domain/entity-tags.ts';

t.test('a tag changes with every byte of the representation, and only then', async (t) => {
  t.equal(entityTag({ a: 1, b: 'é' }), entityTag({ a: 1, b: 'é' }));
  t.match(entityTag({}), /^"[\w-]{32}"$/);
  const others = [{ a: 1 }, { a: 2 }, { a: '1' }, { a: 1, b: null }, { b: 1 }, {}, [], [1]];
  t.equal(new Set(others.map(entityTag)).size, others.length);
});

t.test('lists of tags are read as RFC 9110 writes them', async (t) => {
  t.equal(parseEntityTags('*'), '*');
  t.same(parseEntityTags('"a"'), ['"a"']);
  t.same(parseEntityTags('"a", W/"b"\t,,"c,d" ,""'), ['"a"', 'W/"b"', '"c,d"', '""']);
  for (const good of ['"a"', 'W/"a"', '"a","b"', ', "a",,', '"a,b"'])
    t.not(parseEntityTags(good).length, 0, good);
  for (const bad of ['', 'a', '"a', 'w/"a"', '"a" "b"', '*, "a"', '"a b"', '""x', '"é"', `"${'\x7f'}"`])
    t.same(parseEntityTags(bad), [], `${bad} names nothing`);
});

t.test('only the strong comparison minds a weak tag', async (t) => {
  t.ok(matchesStrongly('*', '"a"'));
  t.ok(matchesStrongly(['"b"', '"a"'], '"a"'));
  t.notOk(matchesStrongly(['W/"a"'], '"a"'));
  t.ok(matchesWeakly(['W/"a"'], '"a"'));
  t.notOk(matchesWeakly(['"b"'], '"a"'));
});
