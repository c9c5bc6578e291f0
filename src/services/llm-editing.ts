// The service's own editor at work on one edit request: claims tasks as every editor does, asks a chat endpoint for the
// smallest edit, submits it or gives the task up.
import { selectEditPolicies } from '../db/datasets.ts';
import { selectEditRequest } from '../db/edit-requests.ts';
import type { ChatChoice, Fault } from '../domain/chat-answers.ts';
import { readEditAnswer } from '../domain/edit-answers.ts';
import { formatId } from '../domain/ids.ts';
import { Problem } from '../errors.ts';
import { completePolicy, type EditPolicy } from './edit-policy.ts';
import { type EditWork, promptVersion, readEditPrompt } from './edit-prompt.ts';
import {
  type ClaimedTask,
  claimTasks,
  failTask,
  heartbeatTask,
  releaseTask,
  submitTask,
} from './edit-tasks.ts';
import type { LlmPrompt } from './llm-prompt.ts';
import {
  type Begun,
  type Item,
  type LlmServices,
  type Times,
  usualTimes,
  type Workload,
  workSlice,
} from './llm-slice.ts';
import { maxTextLength } from './pair-rows.ts';

export interface EditRequestKey {
  projectId: string;
  requestId: string;
}

const samplesBeyondRedundancy = 9; // other requests may have had the first ones

/** A model may be sampled several times; the first sample is called as the model itself. */
const sampleName = (model: string, sample: number): string => (sample === 1 ? model : `${model}#${sample}`);

interface Editing extends Begun {
  services: LlmServices;
  redundancy: number;
  policy: EditPolicy;
  promptOf: (work: EditWork) => LlmPrompt;
  /** which sample of the model claims next; earlier ones can get nothing more */
  sample: number;
}

/**
 * Works for a slice of time on a request that is due. Safe to call at any time, by several workers at once.
 * @returns what to log, null when there is nothing
 */
export const editSlice = (
  services: LlmServices,
  { projectId, requestId }: EditRequestKey,
  signal: AbortSignal,
  times: Times = usualTimes,
): Promise<string | null> =>
  workSlice(services, { projectId, id: requestId }, (begun) => openEditing(services, begun), signal, times);

async function openEditing(services: LlmServices, begun: Begun): Promise<Workload> {
  const { id, projectId } = begun.slice;
  const { redundancy, policies, dataset } = await services.db.transaction(projectId, async (tx) => {
    const { redundancy, dataset_id: dataset } = (await selectEditRequest(tx, id))!;
    return { redundancy, dataset, policies: await selectEditPolicies(tx, [dataset]) };
  });
  const editing: Editing = {
    ...begun,
    services,
    redundancy,
    policy: completePolicy(policies.get(dataset)!),
    promptOf: await readEditPrompt(),
    sample: 1,
  };
  return {
    name: `edit request ${formatId('editRequest', id)}`,
    claim: async () => {
      const task = await claimNext(editing);
      return task && itemOf(editing, task);
    },
    isLeft: async (tx) => (await selectEditRequest(tx, id))!.state === 'open',
  };
}

async function claimNext(editing: Editing): Promise<ClaimedTask | null> {
  const { services, slice, settings, times, redundancy } = editing;
  for (let sample = editing.sample; sample <= redundancy + samplesBeyondRedundancy; sample++) {
    editing.sample = Math.max(editing.sample, sample); // other lanes move it, too
    const { items, open } = await claimTasks(
      services,
      slice,
      {
        editor: { kind: 'llm', name: sampleName(settings.model, sample) },
        edit_request_id: formatId('editRequest', slice.id),
        lease_seconds: times.leaseSeconds,
      },
      ['llm'],
    );
    if (items[0]) return items[0];
    if (open !== 0) return null; // what is left is held, and may be given back
  }
  return null;
}

function itemOf(editing: Editing, task: ClaimedTask): Item {
  const { services, slice, settings, promptOf } = editing;
  const { pair, side } = task;
  const [original, preferred] =
    side === 'a' ? [pair.response_a, pair.response_b] : [pair.response_b, pair.response_a];
  const { instructions } = task;
  const prompt = promptOf({ prompt: pair.prompt, response: original, preferred, instructions });
  return {
    messages: prompt.messages,
    again: prompt.again,
    maxTokens: settings.max_tokens ?? usualMaxTokens(original),
    topLogprobs: null,
    take: (choice) => take(editing, task, { choice, original, mark: prompt.mark }),
    renew: async () => (await unlessLost(heartbeatTask(services, slice, task.id, task))) !== undefined,
    giveBack: () => unlessLost(releaseTask(services, slice, task.id, task)),
    fail: ({ fault, lastOutput }) =>
      unlessLost(
        failTask(services, slice, task.id, {
          lease_token: task.lease_token,
          failure: { ...fault, last_output: lastOutput },
        }),
      ),
  };
}

/** A token has two bytes at the least, nearly always; and there is room for a few thoughts. */
const usualMaxTokens = (original: string): number => 1024 + Math.ceil(Buffer.byteLength(original) / 2);

/** undefined when the lease was lost, the request cancelled or the pair deleted: the task is not ours any more. */
async function unlessLost<T>(act: Promise<T>): Promise<T | undefined> {
  try {
    return await act;
  } catch (error) {
    if (error instanceof Problem && ['conflict', 'not_found'].includes(error.code)) return undefined;
    throw error;
  }
}

/** null: submitted, or the task is not ours any more. */
async function take(
  { services, slice, policy }: Editing,
  task: ClaimedTask,
  { choice, original, mark }: { choice: ChatChoice; original: string; mark: string },
): Promise<Fault | null> {
  const read = readEditAnswer(choice, { original, mark, maxLength: maxTextLength, policy });
  if ('fault' in read) return read.fault;
  const submission = {
    lease_token: task.lease_token,
    edited_response: read.edited,
    prompt_version: promptVersion,
  };
  try {
    await unlessLost(submitTask(services, slice, task.id, submission));
    return null;
  } catch (error) {
    if (!(error instanceof Problem && error.code === 'edit_refused')) throw error; // the policy has changed
    return { reason: 'not_accepted', detail: error.message };
  }
}
