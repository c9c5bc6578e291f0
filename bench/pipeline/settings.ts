// Where the comparison is made besides the demo world with its small policy: in another domain, and with a larger policy.
import { fullRecipe } from '../../examples/recipe.ts';
import { createRandom } from '../../examples/world/random.ts';
import { plainScenario, type Scenario } from '../loop/draw.ts';
import { edit, score } from '../records/records.ts';
import * as records from '../records/rows.ts';

const { scratch } = fullRecipe.sft.base_model;

export const scenarios: Scenario[] = [
  plainScenario,
  {
    ...plainScenario,
    name: 'records',
    world: records,
    score,
    edit: ({ prompt, external_id }, response, seed) =>
      edit(prompt, response, createRandom(`${seed}/edits/${external_id}`)),
  },
  // 142 thousand parameters become 0.8 million
  {
    ...plainScenario,
    name: 'larger policy',
    shape: { scratch: { ...scratch, hidden_size: 128, num_layers: 3, num_heads: 4 } },
  },
];
