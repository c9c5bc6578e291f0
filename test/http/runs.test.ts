import t from 'tap';
import { registerTinyModel } from '../support/models.ts';
import { startTestServer, type TestServer } from '../support/server.ts';

const split = { train: 0.8, validation: 0.1, test: 0.1, seed: 1 };
const nobody = '0'.repeat(32);
const absentDigest = `sha256:${'9'.repeat(64)}`;

async function makeSnapshot({ call }: TestServer, edited: boolean, part: object = split): Promise<string> {
  const dataset = (await call('POST', '/v1/datasets', { json: { name: 'source' } })).body.id;
  const pairs = Array.from({ length: 20 }, (_, i) => ({
    external_id: `e${i}`,
    prompt: `prompt ${i}`,
    response_a: `a good answer ${i}`,
    response_b: `a bad answer ${i}`,
    preference: 'a',
  }));
  await call('POST', `/v1/datasets/${dataset}/pairs`, { json: { pairs } });
  const editor = { kind: 'person', name: 'ann' };
  const edits = pairs.map(({ external_id }, i) => ({
    dataset_id: dataset,
    pair_external_id: external_id,
    edited_response: `a fine answer ${i}`,
    editor,
  }));
  if (edited) await call('POST', '/v1/edits', { json: { edits } });
  return (await call('POST', '/v1/snapshots', { json: { dataset_ids: [dataset], split: part } })).body.id;
}

async function upload({ call }: TestServer, rows: (object | string)[], key?: string): Promise<string> {
  const body = rows.map((row) => (typeof row === 'string' ? row : JSON.stringify(row))).join('\n');
  const headers = { 'content-type': 'application/x-ndjson' };
  return (await call('POST', '/v1/artifacts', { body, headers, ...(key ? { key } : {}) })).body.digest;
}

t.test('runs', async (t) => {
  const server = await startTestServer(t);
  const { call } = server;
  const stranger = await server.otherProjectKey();
  const demonstrations = await upload(server, [
    { prompt: 'Say hello', response: 'Hello.' },
    { id: 7, prompt: [{ role: 'user', content: 'Say bye' }], response: 'Bye.', split: 'validation', more: 1 },
  ]);
  const prompts = await upload(server, [{ prompt: 'Say hello' }]);
  const snapshot = await makeSnapshot(server, true);
  const policy = await registerTinyModel(server, { role: 'policy', alias: 'start' });
  const reward = await registerTinyModel(server, { role: 'token_reward', alias: 'token-reward' });
  const sequenceReward = await registerTinyModel(server, { role: 'sequence_reward' });
  const scratch = { scratch: {} };
  const requests = {
    sft: { kind: 'sft', spec: { base_model: scratch, data: { demonstrations } } },
    reward: { kind: 'reward', spec: { base_model: { alias: 'start' }, snapshot_id: snapshot } },
    ppo: {
      kind: 'ppo',
      spec: {
        policy: { model_id: policy },
        reward_model: { alias: 'token-reward' },
        prompts: { snapshot_id: snapshot },
      },
    },
    dpo: { kind: 'dpo', spec: { policy: { model_id: policy }, snapshot_id: snapshot } },
    generate: { kind: 'generate', spec: { model: { model_id: policy }, prompts: { prompts } } },
  };
  const post = (json: object, key?: string) => call('POST', '/v1/runs', { json, ...(key ? { key } : {}) });

  t.test('every kind is queued, with its defaults written out', async (t) => {
    for (const request of Object.values(requests)) {
      const created = await post(request);
      t.match(
        created,
        {
          status: 202,
          body: {
            id: /^run_[0-9a-f]{32}$/,
            kind: request.kind,
            state: 'queued',
            desired_state: 'running',
            hardware: 'cpu',
            labels: [],
            max_attempts: 3,
            spec: { seed: 0, hyperparameters: { batch_size: Number } },
            progress: null,
            attempts: [],
            result: null,
            failure: null,
            alarms: [],
            artifacts: [],
            model_id: null,
          },
        },
        request.kind,
      );
      t.same((await call('GET', `/v1/runs/${created.body.id}`)).body, created.body);
    }
    const specs = (await call('GET', '/v1/runs?limit=5')).body.items.map(
      ({ spec }: { spec: object }) => spec,
    );
    t.match(specs, [
      { prompts: { prompts } },
      { pairs: 'edits', hyperparameters: { beta: 0.1, nll_weight: 1 } },
      {
        prompts: { snapshot_id: snapshot, split: 'train' },
        hyperparameters: { beta: 0.1, mu: 'batch' },
        alarms: { high_kl: { threshold: 0.3, action: 'warn' } },
      },
      { loss: 'survival', label_rule: 'mix', gate: { pair_accuracy: 0.7 } },
      { base_model: { scratch: { hidden_size: 64, context_length: 256 } }, hyperparameters: { epochs: 3 } },
    ]);
  });

  t.test('a snapshot that cannot feed the run is refused, and says what it lacks', async (t) => {
    const id = (await call('POST', '/v1/datasets', { json: { name: 'nobody is sure' } })).body.id;
    const pair = { prompt: 'p', response_a: 'x', response_b: 'the old answer' };
    const added = await call('POST', `/v1/datasets/${id}/pairs`, { json: { pairs: [pair] } });
    const edit = {
      pair_id: added.body.items[0].id,
      side: 'b',
      edited_response: 'quite another text',
      editor: { kind: 'person', name: 'ann' },
    };
    await call('POST', '/v1/edits', { json: { edits: [edit] } });
    const part = { train: 1, validation: 0, test: 0, seed: 0 };
    const taken = await call('POST', '/v1/snapshots', { json: { dataset_ids: [id], split: part } });
    t.match(taken.body.counts, { pairs: 1, edits: 1, undecided: 1, rewrites: 1 });
    const snapshot_id = taken.body.id;
    const ask = (kind: string, spec: object) => post({ kind, spec, validate_only: true });
    const train = (loss: string) => ask('reward', { base_model: { alias: 'start' }, snapshot_id, loss });
    t.match(await train('survival'), { status: 422, body: { detail: /no minimal edit in its train part/ } });
    t.match(await train('seq_pairs'), { status: 422, body: { detail: /no pair with a preference/ } });
    t.equal((await train('seq_edits')).status, 200, 'a rewrite compares whole responses');
    const learn = (responses: string) =>
      ask('sft', { base_model: scratch, data: { snapshot_id, responses } });
    t.match(await learn('preferred'), { status: 422, body: { detail: /no pair with a preference/ } });
    t.equal((await learn('edited')).status, 200);
    const compare = (pairs: string) => ask('dpo', { policy: { alias: 'start' }, snapshot_id, pairs });
    t.match(await compare('preferences'), { status: 422, body: { detail: /no pair with a preference/ } });
    t.equal((await compare('edits')).status, 200, 'of a rewrite too');
  });

  t.test('validate_only says what would run and stores nothing', async (t) => {
    const before = (await call('GET', '/v1/runs')).body;
    const labels = ['a100'];
    const answer = await post({
      ...requests.reward,
      validate_only: true,
      hardware: 'cuda',
      labels,
      max_attempts: 1,
    });
    t.match(answer, {
      status: 200,
      body: {
        valid: true,
        kind: 'reward',
        spec: { label_rule: 'mix' },
        hardware: 'cuda',
        labels,
        max_attempts: 1,
      },
    });
    t.match(await post({ ...requests.reward, spec: {}, validate_only: true }), { status: 400 });
    t.same((await call('GET', '/v1/runs')).body, before);
  });

  t.test('every form of data and model', async (t) => {
    const forms: object[] = [
      {
        kind: 'sft',
        spec: { base_model: { model_id: policy }, data: { snapshot_id: snapshot, responses: 'all' } },
      },
      { kind: 'sft', spec: { base_model: { path: '/models/base' }, data: { snapshot_id: snapshot } } },
      { kind: 'sft', spec: { base_model: { hub: 'org/name', revision: 'abc' }, data: { demonstrations } } },
      { kind: 'ppo', spec: { ...requests.ppo.spec, prompts: { prompts }, alias: 'start', name: 'better' } },
      {
        kind: 'generate',
        spec: { ...requests.generate.spec, prompts: { snapshot_id: snapshot, split: 'train' } },
      },
      { kind: 'generate', spec: { ...requests.generate.spec, kl_reference: { alias: 'start' } } },
      {
        kind: 'ppo',
        spec: {
          ...requests.ppo.spec,
          reward_model: { model_id: sequenceReward },
          evaluation: { prompts: { prompts }, every: 2, kl_reference: { model_id: policy } },
          hyperparameters: { reward_placement: 'spread' },
        },
      },
      ...['bt_hunk', 'bt_sum', 'seq_edits', 'seq_pairs'].map((loss) => ({
        kind: 'reward',
        spec: { ...requests.reward.spec, loss },
      })),
    ];
    for (const form of forms)
      t.match(await post({ ...form, validate_only: true }), { status: 200 }, JSON.stringify(form));
  });

  t.test(
    'what does not fit the schema of its kind (400), or contradicts itself (422), is refused with a pointer',
    async (t) => {
      const { sft, reward: rewardRun, ppo, generate } = requests;
      const misfits: [object, string][] = [
        [{}, '/kind'],
        [{ kind: 'kto', spec: {} }, '/kind'],
        [{ kind: 'sft' }, '/spec'],
        [{ ...sft, priority: 1001 }, '/priority'],
        [{ ...sft, time_limit_seconds: 0 }, '/time_limit_seconds'],
        [{ ...sft, after: ['a', 'a'] }, '/after'],
        [{ ...sft, colour: 1 }, '/colour'],
        [{ ...sft, spec: { ...sft.spec, gate: {} } }, '/spec/gate'],
        [{ ...sft, spec: { ...sft.spec, hyperparameters: { epoch: 1 } } }, '/spec/hyperparameters/epoch'],
        [{ ...sft, spec: { ...sft.spec, hyperparameters: { epochs: 0 } } }, '/spec/hyperparameters/epochs'],
        [{ ...sft, spec: { ...sft.spec, hyperparameters: { epochs: '3' } } }, '/spec/hyperparameters/epochs'],
        [{ ...sft, spec: { ...sft.spec, seed: -1 } }, '/spec/seed'],
        [{ ...sft, spec: { ...sft.spec, base_model: {} } }, '/spec/base_model'],
        [
          { ...sft, spec: { ...sft.spec, data: { demonstrations: 'sha256:1' } } },
          '/spec/data/demonstrations',
        ],
        [{ ...rewardRun, spec: { ...rewardRun.spec, base_model: scratch } }, '/spec/base_model/scratch'],
        [{ ...rewardRun, spec: { ...rewardRun.spec, loss: 'bt' } }, '/spec/loss'],
        [
          { ...rewardRun, spec: { ...rewardRun.spec, gate: { pair_accuracy: 70 } } },
          '/spec/gate/pair_accuracy',
        ],
        [{ ...ppo, spec: { ...ppo.spec, reward_model: { path: '/x' } } }, '/spec/reward_model/path'],
        [{ ...ppo, spec: { ...ppo.spec, evaluation: {} } }, '/spec/evaluation/prompts'],
        [{ ...ppo, spec: { ...ppo.spec, alarms: { hihg_kl: {} } } }, '/spec/alarms/hihg_kl'],
        [
          { ...ppo, spec: { ...ppo.spec, alarms: { high_kl: { action: 'panic' } } } },
          '/spec/alarms/high_kl/action',
        ],
        [{ ...ppo, spec: { ...ppo.spec, evaluation: { prompts: {} } } }, '/spec/evaluation/prompts'],
        [
          { ...ppo, spec: { ...ppo.spec, evaluation: { prompts: { prompts }, every: 0 } } },
          '/spec/evaluation/every',
        ],
        [{ ...generate, spec: { ...generate.spec, alias: 'x' } }, '/spec/alias'],
        [{ ...generate, hardware: 'tpu' }, '/hardware'],
        [{ ...generate, max_attempts: 0 }, '/max_attempts'],
        [{ ...generate, labels: ['a', 'a'] }, '/labels'],
      ];
      const contradictions: [object, string][] = [
        [{ ...sft, spec: { ...sft.spec, base_model: { ...scratch, alias: 'start' } } }, '/spec/base_model'],
        [{ ...sft, spec: { ...sft.spec, base_model: { hub: 'org/name' } } }, '/spec/base_model'],
        [
          { ...sft, spec: { ...sft.spec, base_model: { scratch: { hidden_size: 66, num_heads: 4 } } } },
          '/spec/base_model/scratch/hidden_size',
        ],
        [{ ...sft, spec: { ...sft.spec, data: { demonstrations, snapshot_id: snapshot } } }, '/spec/data'],
        [
          { ...sft, spec: { ...sft.spec, data: { demonstrations, responses: 'all' } } },
          '/spec/data/responses',
        ],
        [
          { ...rewardRun, spec: { ...rewardRun.spec, loss: 'seq_edits', gate: { bad_token_auc: 0.9 } } },
          '/spec/gate/bad_token_auc',
        ],
        [
          { ...rewardRun, spec: { ...rewardRun.spec, hyperparameters: { uncertainty_penalty: 1 } } },
          '/spec/hyperparameters/heads',
        ],
        [
          {
            ...rewardRun,
            spec: { ...rewardRun.spec, loss: 'seq_pairs', hyperparameters: { preferred_responses: 1 } },
          },
          '/spec/hyperparameters/preferred_responses',
        ],
        [
          { ...ppo, spec: { ...ppo.spec, hyperparameters: { minibatches: 65 } } },
          '/spec/hyperparameters/minibatches',
        ],
        [
          { ...ppo, spec: { ...ppo.spec, hyperparameters: { samples_per_prompt: 3 } } },
          '/spec/hyperparameters/batch_size',
        ],
        [
          { ...ppo, spec: { ...ppo.spec, hyperparameters: { advantage: 'leave_one_out' } } },
          '/spec/hyperparameters/samples_per_prompt',
        ],
        [
          { ...ppo, spec: { ...ppo.spec, hyperparameters: { lora_rank: 8, critic: 'separate' } } },
          '/spec/hyperparameters/critic',
        ],
        [
          { ...sft, spec: { ...sft.spec, base_model: scratch, hyperparameters: { lora_rank: 8 } } },
          '/spec/hyperparameters/lora_rank',
        ],
        [
          {
            ...ppo,
            spec: { ...ppo.spec, evaluation: { prompts: { prompts }, kl_reference: { hub: 'org/name' } } },
          },
          '/spec/evaluation/kl_reference',
        ],
        [
          {
            ...ppo,
            spec: { ...ppo.spec, evaluation: { prompts: { prompts }, judge: { alias: 'start' } } },
          },
          '/spec/evaluation/judge',
        ],
        [
          {
            ...generate,
            spec: {
              ...generate.spec,
              kl_reference: { alias: 'start' },
              hyperparameters: { temperature: 0 },
            },
          },
          '/spec/kl_reference',
        ],
        [
          { ...generate, spec: { ...generate.spec, prompts: { prompts, split: 'test' } } },
          '/spec/prompts/split',
        ],
      ];
      const refused = async (json: object, status: number, pointer: string) => {
        const answer = await post(json);
        t.match(answer, { status, body: { errors: [{ pointer }] } }, JSON.stringify(json));
        t.ok(answer.body.errors.length <= 2, `${pointer}: one mistake is not told as many`);
      };
      for (const [json, pointer] of misfits) await refused(json, 400, pointer);
      for (const [json, pointer] of contradictions) await refused(json, 422, pointer);
    },
  );

  t.test('what this project does not have is not found', async (t) => {
    const strange = { key: stranger };
    const theirDemonstrations = await upload(server, [{ prompt: 'p', response: 'only theirs' }], stranger);
    const absent: [object, string][] = [
      [
        { ...requests.reward, spec: { ...requests.reward.spec, snapshot_id: `snap_${nobody}` } },
        '/spec/snapshot_id',
      ],
      [
        { ...requests.reward, spec: { ...requests.reward.spec, snapshot_id: 'nonsense' } },
        '/spec/snapshot_id',
      ],
      [
        { ...requests.generate, spec: { ...requests.generate.spec, model: { model_id: `model_${nobody}` } } },
        '/spec/model/model_id',
      ],
      [
        { ...requests.sft, spec: { base_model: scratch, data: { demonstrations: absentDigest } } },
        '/spec/data/demonstrations',
      ],
      [
        { ...requests.sft, spec: { base_model: scratch, data: { demonstrations: theirDemonstrations } } },
        '/spec/data/demonstrations',
      ],
    ];
    for (const [json, pointer] of absent) {
      t.match(await post(json), { status: 404, body: { code: 'not_found', errors: [{ pointer }] } }, pointer);
    }
    t.match(await post(requests.generate, stranger), { status: 404 }, 'a model of another project');
    t.match(
      await post(
        { ...requests.sft, spec: { base_model: scratch, data: { snapshot_id: snapshot } } },
        stranger,
      ),
      {
        status: 404,
      },
    );
    for (const path of [`/v1/runs/run_${nobody}`, '/v1/runs/nonsense', `/v1/runs/snap_${nobody}`]) {
      t.match(await call('GET', path), { status: 404 }, path);
      t.match(await call('POST', `${path}/cancel`), { status: 404 }, `${path}/cancel`);
      t.match(await call('GET', `${path}/events`), { status: 404 }, `${path}/events`);
    }
    const { id } = (await post(requests.sft)).body;
    t.match(await call('GET', `/v1/runs/${id}`, strange), { status: 404 });
    t.match(await call('POST', `/v1/runs/${id}/cancel`, strange), { status: 404 });
    t.match(await call('GET', `/v1/runs/${id}/events`, strange), { status: 404 });
    t.same((await call('GET', '/v1/runs', strange)).body.items, []);
  });

  t.test('what cannot be done is refused before it is queued', async (t) => {
    const unedited = await makeSnapshot(server, false);
    const testOnly = await makeSnapshot(server, true, { train: 0, validation: 0, test: 1, seed: 1 });
    const wrongRows = await upload(server, [{ prompt: 'p', response: 'r' }, { prompt: 'p' }]);
    const noJson = await upload(server, [{ prompt: 'p', response: 'r' }, '{']);
    const noRows = await upload(server, ['', ' ']);
    const otherTokenizer = await registerTinyModel(server, {
      role: 'policy',
      changes: { 'tokenizer.json': (text) => `${text} ` },
    });
    const sft = (spec: object) => ({ kind: 'sft', spec: { ...requests.sft.spec, ...spec } });
    const rewardOf = (spec: object) => ({ kind: 'reward', spec: { ...requests.reward.spec, ...spec } });
    const ppo = (spec: object) => ({ kind: 'ppo', spec: { ...requests.ppo.spec, ...spec } });
    const impossible: [object, string][] = [
      [rewardOf({ snapshot_id: unedited }), '/spec/snapshot_id'],
      [rewardOf({ snapshot_id: testOnly }), '/spec/snapshot_id'],
      [rewardOf({ base_model: { alias: 'nobody' } }), '/spec/base_model/alias'],
      [rewardOf({ base_model: { model_id: reward } }), '/spec/base_model'],
      [rewardOf({ alias: 'start' }), '/spec/alias'],
      [sft({ data: { snapshot_id: unedited } }), '/spec/data/snapshot_id'],
      [sft({ data: { snapshot_id: testOnly, responses: 'all' } }), '/spec/data/snapshot_id'],
      [sft({ data: { demonstrations: wrongRows } }), '/spec/data'],
      [sft({ data: { demonstrations: noJson } }), '/spec/data'],
      [sft({ data: { demonstrations: noRows } }), '/spec/data'],
      [sft({ alias: 'token-reward' }), '/spec/alias'],
      [ppo({ policy: { alias: 'token-reward' } }), '/spec/policy'],
      [ppo({ reward_model: { alias: 'start' } }), '/spec/reward_model'],
      [
        ppo({ evaluation: { prompts: { prompts }, kl_reference: { model_id: otherTokenizer } } }),
        '/spec/evaluation/kl_reference',
      ],
      [ppo({ prompts: { snapshot_id: testOnly } }), '/spec/prompts/snapshot_id'],
      [ppo({ evaluation: { prompts: { snapshot_id: testOnly } } }), '/spec/evaluation/prompts/snapshot_id'],
      [ppo({ evaluation: { prompts: { prompts: noJson } } }), '/spec/evaluation/prompts'],
      [
        ppo({ evaluation: { prompts: { prompts }, kl_reference: { model_id: reward } } }),
        '/spec/evaluation/kl_reference',
      ],
      [rewardOf({ loss: 'seq_edits', alias: 'token-reward' }), '/spec/alias'],
    ];
    const before = (await call('GET', '/v1/runs')).body;
    for (const [json, pointer] of impossible) {
      t.match(
        await post(json),
        { status: 422, body: { code: 'unprocessable', errors: [{ pointer }] } },
        JSON.stringify(json),
      );
    }
    t.match((await post(sft({ data: { demonstrations: wrongRows } }))).body.detail, /line 2/);
    t.same((await call('GET', '/v1/runs')).body, before);
  });

  t.test('a folder of the runner is for the operator only', async (t) => {
    const json = {
      kind: 'generate',
      spec: { model: { path: '/models/base' }, prompts: { prompts } },
      validate_only: true,
    };
    t.match(await post(json), { status: 200 });
    t.match(await post(json, await server.keyWith('admin')), {
      status: 403,
      body: { code: 'missing_scope' },
    });
  });

  t.test('a queued run is cancelled at once, an ended one not at all', async (t) => {
    const { id } = (await post(requests.sft)).body;
    t.match(await call('POST', `/v1/runs/${id}/cancel`), {
      status: 200,
      body: { id, state: 'cancelled', desired_state: 'cancelled', finished_at: String },
    });
    t.match(await call('POST', `/v1/runs/${id}/cancel`), { status: 409, body: { code: 'conflict' } });
    const events = await call('GET', `/v1/runs/${id}/events`);
    t.match(events.body, {
      items: [{ sequence: 1, attempt: 0, type: 'cancel_requested', data: {} }],
      next_after: 1,
    });
    t.same((await call('GET', `/v1/runs/${id}/events?after=1`)).body, { items: [], next_after: 1 });
    t.match(await call('GET', `/v1/runs/${id}/events?after=-1`), { status: 400 });
  });

  t.test('the list: newest first, by state and kind, in pages', async (t) => {
    const all = (await call('GET', '/v1/runs?limit=500')).body.items.map(({ id }: { id: string }) => id);
    t.same(all, [...all].sort().reverse());
    const paged: string[] = [];
    for (let cursor = ''; ; ) {
      const page = (await call('GET', `/v1/runs?limit=2${cursor}`)).body;
      paged.push(...page.items.map(({ id }: { id: string }) => id));
      if (page.next_cursor === null) break;
      cursor = `&cursor=${page.next_cursor}`;
    }
    t.same(paged, all);
    const cancelled = (await call('GET', '/v1/runs?state=cancelled')).body.items;
    t.match(cancelled, [{ state: 'cancelled' }]);
    t.ok(
      (await call('GET', '/v1/runs?kind=ppo')).body.items.every(
        ({ kind }: { kind: string }) => kind === 'ppo',
      ),
    );
    t.match(await call('GET', '/v1/runs?state=done'), { status: 400 });
  });
});
