// Reads a Dockerfile as far as ours go: stages, each a base and its instructions in order.

export interface Instruction {
  name: string;
  /** what follows the name, line continuations joined */
  text: string;
}

export interface Stage {
  base: string;
  /** AS … */
  name: string | null;
  instructions: Instruction[];
}

/** @throws Error for a line that is no instruction */
export function parseDockerfile(source: string): Stage[] {
  const lines = source
    .split('\n')
    .filter((line) => !/^\s*#/.test(line))
    .join('\n')
    .replaceAll(/\\\n\s*/g, '')
    .split('\n')
    .filter((line) => line.trim() !== '');
  const stages: Stage[] = [];
  for (const line of lines) {
    const [, name, text] = /^([A-Z]+)\s+(.*)$/.exec(line) ?? [];
    if (name === undefined || text === undefined) throw new Error(`This is no instruction: ${line}`);
    if (name === 'FROM') {
      const [base = '', , as = null] = text.split(/\s+/);
      stages.push({ base, name: as, instructions: [] });
    } else {
      const stage = stages.at(-1);
      if (!stage) throw new Error(`${name} stands before FROM.`);
      stage.instructions.push({ name, text });
    }
  }
  return stages;
}

/** The words of a COPY, without its flags. */
export function copied({ text }: Instruction): { from: string | null; sources: string[]; target: string } {
  const words = text.split(/\s+/);
  const from = words.find((word) => word.startsWith('--from='))?.slice('--from='.length) ?? null;
  const paths = words.filter((word) => !word.startsWith('--'));
  return { from, sources: paths.slice(0, -1), target: paths.at(-1)! };
}
