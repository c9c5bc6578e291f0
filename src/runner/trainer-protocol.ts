// What the trainer says on its standard output: one JSON object a line (runners/README.md). A line that is none of
// these is told apart here, and is never a reason to stop a run.
import { type Static, Type } from 'typebox';
import { Compile } from 'typebox/compile';

const Num = Type.Union([Type.Number(), Type.Null()]);
const Step = Type.Integer({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER });
const Numbers = Type.Record(Type.String(), Num);

const lines = {
  progress: Type.Object({
    type: Type.Literal('progress'),
    step: Type.Number({ minimum: 0 }),
    total_steps: Type.Number({ minimum: 0 }),
    stage: Type.String(),
  }),
  metrics: Type.Object({ type: Type.Literal('metrics'), step: Step, values: Numbers }),
  log: Type.Object({ type: Type.Literal('log'), level: Type.String(), message: Type.String() }),
  checkpoint: Type.Object({
    type: Type.Literal('checkpoint'),
    step: Step,
    path: Type.String({ pattern: '^checkpoints/[\\w.-]+$' }),
    digest: Type.String(),
  }),
  rollouts: Type.Object({
    type: Type.Literal('rollouts'),
    step: Step,
    path: Type.String({ pattern: '^rollouts/[\\w.-]+$' }),
    count: Step,
  }),
  alarm: Type.Object({
    type: Type.Literal('alarm'),
    code: Type.String(),
    detail: Type.String(),
    step: Type.Optional(Num),
    value: Type.Optional(Num),
    threshold: Type.Optional(Num),
    action: Type.Optional(Type.Enum(['warn', 'pause', 'stop'])),
  }),
  artifact: Type.Object({
    type: Type.Literal('artifact'),
    name: Type.String({ minLength: 1 }),
    path: Type.String(),
    media_type: Type.String({ minLength: 1 }),
  }),
  model: Type.Object({
    type: Type.Literal('model'),
    role: Type.String(),
    path: Type.String(),
    metrics: Numbers,
  }),
  result: Type.Object({ type: Type.Literal('result'), result: Type.Record(Type.String(), Type.Unknown()) }),
  failure: Type.Object({ type: Type.Literal('failure'), reason: Type.String(), detail: Type.String() }),
};

export type TrainerLine = { [Name in keyof typeof lines]: Static<(typeof lines)[Name]> }[keyof typeof lines];

const format = Compile(Type.Union(Object.values(lines)));

/** null for what is not a line of the protocol */
export function parseTrainerLine(text: string): TrainerLine | null {
  try {
    const value: unknown = JSON.parse(text);
    return format.Check(value) ? (value as TrainerLine) : null;
  } catch {
    return null;
  }
}
