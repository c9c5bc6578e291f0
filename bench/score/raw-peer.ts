// onnxruntime-node alone, in a process of its own, as a server to compare with.
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type Precision, readModelManifest } from '../../src/scoring/model-manifest.ts';
import { loadModelTokenizer } from '../../src/scoring/tokenizer.ts';
import { cpuSeconds } from './processes.ts';
import type { Peer } from './servers.ts';

export async function openRaw(folder: string, precision: Precision): Promise<Peer> {
  const { graphs } = await readModelManifest(folder);
  const tokenizer = await loadModelTokenizer(folder);
  const child = fork(fileURLToPath(new URL('./raw.js', import.meta.url)), { env: {} });
  const ask = async (message: object): Promise<void> => {
    child.send(message);
    await once(child, 'message');
  };
  await ask({ ...graphs[precision]!, file: join(folder, graphs[precision]!.file) });
  return {
    name: `onnxruntime-node ${precision}`,
    async score(items) {
      const sequences = [];
      for (const { prompt, response } of items) {
        const promptIds = await tokenizer.encodePrompt(prompt);
        const { tokenIds } = await tokenizer.encodeResponse(response);
        sequences.push({ ids: [...promptIds, ...tokenIds], prompt: promptIds.length });
      }
      await ask(sequences);
      return [];
    },
    cpuSeconds: () => cpuSeconds([child.pid!]),
    async stop() {
      child.disconnect();
      await once(child, 'exit');
    },
  };
}
