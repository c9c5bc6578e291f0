// The service that is fuzzed: a process of its own, as `npm start` runs it, with one resource of each kind in it.
import { join } from 'node:path';
import { spawnApi } from '../support/api-process.ts';

export interface FuzzedService {
  url: string;
  key: string;
  /** ids by the name of the path parameter that takes them */
  ids: Record<string, string[]>;
  stop(): Promise<void>;
}

const key = 'fg_the-key-of-the-fuzzed-service';

/** Without a runner: runs stay queued. @param dataDir a new folder */
export async function startFuzzedService(dataDir: string): Promise<FuzzedService> {
  const api = spawnApi({
    FINEGRAIN_DATA_DIR: dataDir,
    FINEGRAIN_API_KEY: key,
    FINEGRAIN_RUNNERS: '0',
    FINEGRAIN_RATE_LIMIT: '0',
    FINEGRAIN_AUTH_FAILURES: '0',
    FINEGRAIN_PYTHON: join(dataDir, 'no-python'),
  });
  const stop = () => api.kill('SIGTERM');
  try {
    const url = await api.url;
    return { url, key, ids: await fillService(url, key), stop };
  } catch (error) {
    await stop();
    throw error;
  }
}

/** Makes one resource of each kind; the ids go by the name of the path parameter that takes them. */
export async function fillService(url: string, key: string): Promise<Record<string, string[]>> {
  // biome-ignore lint/suspicious/noExplicitAny: answers are as the document says
  const call = async (method: string, path: string, json?: object): Promise<any> => {
    const response = await fetch(url + path, {
      method,
      headers: { authorization: `Bearer ${key}`, ...(json ? { 'content-type': 'application/json' } : {}) },
      ...(json ? { body: JSON.stringify(json) } : {}),
    });
    const answer = await response.json();
    if (!response.ok) throw new Error(`${method} ${path}: ${JSON.stringify(answer)}`);
    return answer;
  };
  const dataset = await call('POST', '/v1/datasets', { name: 'fuzz' });
  const pairs = await call('POST', `/v1/datasets/${dataset.id}/pairs`, {
    pairs: Array.from({ length: 40 }, (_, n) => ({
      external_id: `pair-${n}`,
      prompt: `Prompt ${n}`,
      response_a: `The good answer ${n}.`,
      response_b: `The bad answer ${n}.`,
      preference: 'a',
    })),
  });
  const pairIds = pairs.items.map(({ id }: { id: string }) => id);
  const editor = { kind: 'person', name: 'annotator-7' };
  const edits = await call('POST', '/v1/edits', {
    edits: pairIds.slice(0, 20).map((pair_id: string, n: number) => ({
      pair_id,
      edited_response: `The better answer ${n}.`,
      editor,
    })),
  });
  const request = await call('POST', '/v1/edit-requests', {
    dataset_id: dataset.id,
    editor: 'person',
    redundancy: 3,
  });
  const tasks = await call('GET', `/v1/edit-tasks?edit_request_id=${request.id}&limit=20`);
  const snapshot = await call('POST', '/v1/snapshots', {
    dataset_ids: [dataset.id],
    split: { train: 0.8, validation: 0.1, test: 0.1, seed: 0 },
  });
  const run = await call('POST', '/v1/runs', {
    kind: 'sft',
    spec: { base_model: { scratch: {} }, data: { snapshot_id: snapshot.id } },
  });
  const models = await call('GET', '/v1/models');
  const project = await call('POST', '/v1/projects', { name: 'another' });
  const apiKey = await call('POST', '/v1/keys', { name: 'a key', scopes: ['read'] });
  const webhook = await call('POST', '/v1/webhooks', {
    url: 'https://hooks.example/finegrain', // a name that never resolves (RFC 2606)
    events: ['run.succeeded'],
  });
  const delivery = await call('POST', `/v1/webhooks/${webhook.id}/test`);
  await call('PUT', '/v1/secrets/llm-api-key', { value: 'a secret' });
  const artifact = await fetch(`${url}/v1/artifacts`, {
    method: 'POST',
    headers: { authorization: `Bearer ${key}`, 'content-type': 'application/x-ndjson' },
    body: '{"id":"1","prompt":"Prompt 1"}\n',
  });
  const upload = await call('POST', '/v1/artifact-uploads', {
    digest: `sha256:${'ab'.repeat(32)}`,
    bytes: 20_000_000,
  });
  const scoreJob = await call('POST', '/v1/score-jobs', { input: { snapshot_id: snapshot.id } });
  // has its items at once: nothing here makes those of others
  const evaluation = await call('POST', '/v1/evaluations/import', {
    annotations: [
      { instruction: 'Prompt 1', output_1: 'A response.', output_2: 'Another.', preference: 2 },
      { instruction: 'Prompt 2', output_1: 'A response.', output_2: 'Another.', preference: 1 },
    ],
  });
  const { items } = await call('GET', `/v1/evaluations/${evaluation.id}/items`);
  await call('POST', `/v1/evaluations/${evaluation.id}/judgements`, {
    judgements: [{ item_id: items[0].item_id, outcome: 1, judge: { kind: 'person', name: 'ann' } }],
  });
  const judgements = await call('GET', `/v1/evaluations/${evaluation.id}/judgements`);
  const idsOf = (items: { id: string }[]): string[] => items.map(({ id }) => id);
  return {
    dataset_id: [dataset.id],
    pair_id: pairIds,
    edit_id: idsOf(edits.items),
    edit_request_id: [request.id],
    edit_task_id: idsOf(tasks.items),
    snapshot_id: [snapshot.id],
    run_id: [run.id],
    model_id: [...idsOf(models.items), 'token-reward'],
    key_id: [apiKey.id],
    project_id: [project.id],
    webhook_id: [webhook.id],
    delivery_id: [delivery.id],
    secret_name: ['llm-api-key'],
    digest: [((await artifact.json()) as { digest: string }).digest],
    upload_id: [upload.id],
    score_job_id: [scoreJob.id],
    evaluation_id: [evaluation.id],
    judgement_id: idsOf(judgements.items.slice(-1)), // that of a person
    part: ['1', '2'],
    path: ['config.json', 'reward.onnx'],
    step: ['5'],
    checkpoint_file: ['manifest.json'],
  };
}
