import { fileURLToPath } from 'node:url';
import t from 'tap';
import { precisions, readModelManifest } from '../../src/scoring/model-manifest.ts';
import { openRewardGraph } from '../../src/scoring/reward-graph.ts';
import { shippedSampleFolder } from '../../src/services/sample-model.ts';
import { tinyModelFolder } from '../support/models.ts';

/** Tokens of the sample's vocabulary, the same each time. */
const someTokens = (count: number, seed: number): Int32Array =>
  Int32Array.from({ length: count }, (_, index) => 10 + ((index * 7919 + seed * 104_729) % 600));

for (const precision of precisions)
  t.test(
    `a reward in ${precision} does not depend on what else was scored, nor on a kept prompt`,
    async (t) => {
      const { graphs, contextLength } = await readModelManifest(shippedSampleFolder);
      const graph = { ...graphs[precision]!, file: `${shippedSampleFolder}/${graphs[precision]!.file}` };
      t.ok(graph.past, 'the sample takes a past');
      const used = await openRewardGraph(graph);
      t.teardown(() => used.release());
      let seed = 0;
      for (const promptLength of [1, 2, 7, 8, 9, 32, 33, 34, 64, 65, 97, 150]) {
        for (const length of [1, 2, 31, 32, 33, contextLength - promptLength]) {
          const total = Math.min(contextLength, promptLength + length);
          const tokens = someTokens(total, seed++);
          const longer = Int32Array.from(
            [...tokens, ...someTokens(contextLength, seed)].slice(0, contextLength),
          );
          const alone = await used.score(tokens, promptLength, false);
          const ways = {
            'the prompt once more': await used.score(tokens, promptLength, false),
            'a kept prompt': await used.score(tokens, promptLength, false),
            'within a longer response': (await used.score(longer, promptLength, true)).slice(0, alone.length),
            'the whole as a response': (await used.score(tokens, 0, false)).slice(promptLength),
          };
          for (const [way, rewards] of Object.entries(ways))
            t.same(rewards, alone, `${promptLength} + ${total - promptLength}: ${way}`);
        }
      }
    },
  );

t.test('a graph without a past is scored whole', async (t) => {
  const { fp32 } = (await readModelManifest(fileURLToPath(tinyModelFolder))).graphs;
  t.notOk(fp32!.past);
  const graph = await openRewardGraph({
    ...fp32!,
    file: fileURLToPath(new URL(fp32!.file, tinyModelFolder)),
  });
  t.teardown(() => graph.release());
  const tokens = Int32Array.of(1, 4, 40, 41, 42);
  const rewards = await graph.score(tokens, 2, true);
  t.equal(rewards.length, 3);
  t.same(await graph.score(tokens, 2, false), rewards);
});

t.test('a graph that lacks what its card says is refused', async (t) => {
  const { fp32 } = (await readModelManifest(fileURLToPath(tinyModelFolder))).graphs;
  const file = fileURLToPath(new URL(fp32!.file, tinyModelFolder));
  const past = { layers: 1, key_value_heads: 2, head_size: 8 };
  await t.rejects(openRewardGraph({ ...fp32!, file, past }), /lacks length,first,past_key\.0,past_value\.0/);
});
