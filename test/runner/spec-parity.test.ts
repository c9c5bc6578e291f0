// The API's specs and the trainer's are one contract: equal keys, types, defaults and limits.
import { execFileSync } from 'node:child_process';
import t from 'tap';
import { Type } from 'typebox';
import { alarms, evaluationOptions, hyperparameters, scratchModel } from '../../src/services/run-specs.ts';
import { trainerPython } from '../support/runner.ts';

const program = `
import json, sys
from dataclasses import fields
from typing import get_type_hints
from finegrain_trainer import spec

def describe(cls):
    hints = get_type_hints(cls)
    return {f.name: {"type": hints[f.name].__name__, "default": f.default, **f.metadata} for f in fields(cls)}

def alarms(cls):
    return {f.name: vars(f.default) for f in fields(cls)}

json.dump({"options": {
    "sft": describe(spec.SftOptions), "reward": describe(spec.RewardOptions), "ppo": describe(spec.PpoOptions),
    "dpo": describe(spec.DpoOptions), "generate": describe(spec.GenerateOptions), "evaluation": describe(spec.EvaluationOptions), "scratch": describe(spec.ScratchModel),
}, "alarms": {kind: alarms(cls) for kind, cls in spec.ALARMS.items()}}, sys.stdout)
`;

interface Option {
  type: 'int' | 'float' | 'str' | 'bool';
  default: unknown;
  above: number | null;
  minimum: number | null;
  maximum: number | null;
  choices: string[] | null;
}

const python = trainerPython();
const skip = python === null && 'no Python environment';
const described: {
  options: Record<string, Record<string, Option>>;
  alarms: Record<string, Record<string, { threshold: number; action: string }>>;
} = skip ? {} : JSON.parse(execFileSync(python!, ['-c', program], { cwd: 'runners', encoding: 'utf8' }));

t.test('hyperparameters', { skip }, async (t) => {
  const trainer = described.options;
  const api = { ...hyperparameters, evaluation: Type.Object(evaluationOptions), scratch: scratchModel };
  t.same(Object.keys(api).sort(), Object.keys(trainer).sort());
  for (const [kind, { properties }] of Object.entries(api)) {
    t.same(Object.keys(properties), Object.keys(trainer[kind]!), `${kind}: names, in order`);
    for (const [name, option] of Object.entries(trainer[kind]!)) {
      t.match((properties as Record<string, object>)[name], schemaOf(option), `${kind}.${name}`);
    }
  }
});

t.test('alarms', { skip }, async (t) => {
  t.same(Object.keys(alarms).sort(), Object.keys(described.alarms).sort());
  for (const [kind, { properties }] of Object.entries(alarms)) {
    t.same(Object.keys(properties), Object.keys(described.alarms[kind]!), `${kind}: names, in order`);
    for (const [code, { threshold, action }] of Object.entries(described.alarms[kind]!)) {
      t.match(
        (properties as Record<string, object>)[code],
        { properties: { threshold: { default: threshold }, action: { default: action } } },
        `${kind}.${code}`,
      );
    }
  }
});

function schemaOf({ type, default: fallback, above, minimum, maximum, choices }: Option): object {
  if (choices) return { enum: choices, default: fallback };
  if (type === 'bool') return { type: 'boolean', default: fallback };
  return {
    type: type === 'int' ? 'integer' : 'number',
    default: fallback,
    exclusiveMinimum: above ?? undefined,
    minimum: minimum ?? undefined,
    ...(maximum === null ? {} : { maximum }),
  };
}
