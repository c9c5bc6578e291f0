// onnxruntime-node alone, in a process of its own, as a server to compare with.
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type Precision, readModelManifest } from '../../src/scoring/model-manifest.ts';
import { loadModelTokenizer } from '../../src/scoring/tokenizer.ts';
import type { ScoreItem } from '../../src/services/scoring.ts';
import { cpuSeconds } from './processes.ts';
import type { Peer } from './servers.ts';

/** It scores `items` only, whose tokens it has beforehand. */
export async function openRaw(folder: string, precision: Precision, items: ScoreItem[]): Promise<Peer> {
  const { graphs } = await readModelManifest(folder);
  const graph = { ...graphs[precision]!, file: join(folder, graphs[precision]!.file) };
  await readFile(graph.file); // the page cache has it
  const tokenizer = await loadModelTokenizer(folder);
  const sequences = [];
  for (const { prompt, response } of items) {
    const promptIds = await tokenizer.encodePrompt(prompt);
    const { tokenIds } = await tokenizer.encodeResponse(response);
    sequences.push({ ids: [...promptIds, ...tokenIds], prompt: promptIds.length });
  }
  const child = fork(fileURLToPath(new URL('./raw.js', import.meta.url)), { env: {} });
  const ask = async (message: unknown): Promise<void> => {
    child.send(message as object);
    await once(child, 'message');
  };
  await ask({ graph, sequences });
  return {
    name: `onnxruntime-node ${precision}`,
    async score() {
      await ask('score');
      return [];
    },
    cpuSeconds: () => cpuSeconds([child.pid!]),
    async stop() {
      child.disconnect();
      await once(child, 'exit');
    },
  };
}
