// Files of weights, looked at before anything loads them: that a safetensors file is one, and which other files an ONNX
// graph reads. Read by ranges, so that a file of gigabytes costs a few pages of it.
import { posix } from 'node:path';
import { ModelRefused } from './model-json.ts';

export interface RangedFile {
  path: string;
  bytes: number;
  /** exactly these bytes */
  read(start: number, end: number): Promise<Buffer>;
}

const mostHeaderBytes = 8 * 1024 ** 2; // some eighty thousand tensors

/**
 * A header of JSON, and tensors that lie in the rest of the file (https://github.com/huggingface/safetensors#format).
 * @throws ModelRefused for anything else, a pickle or a pointer of Git LFS under that name for one
 */
export async function checkSafetensors({ path, bytes, read }: RangedFile): Promise<void> {
  const refuse = (reason: string): ModelRefused => new ModelRefused(`${path} is not safetensors: ${reason}`);
  if (bytes < 8) throw refuse('it is too short');
  const start = await read(0, Math.min(bytes, 64));
  if (start.toString('latin1').startsWith('version https://git-lfs'))
    throw refuse('it is a pointer of Git LFS; "git lfs pull" brings the file itself');
  const headerBytes = start.readBigUInt64LE(0);
  if (headerBytes > BigInt(Math.min(bytes - 8, mostHeaderBytes)))
    throw refuse('its header does not fit into the file');
  const dataStart = 8 + Number(headerBytes);
  let header: unknown;
  try {
    header = JSON.parse((await read(8, dataStart)).toString());
  } catch {
    throw refuse('its header is not JSON');
  }
  if (typeof header !== 'object' || header === null) throw refuse('its header is not an object');
  for (const [name, tensor] of Object.entries(header)) {
    if (name === '__metadata__') continue;
    const [from, to] = (tensor as { data_offsets?: number[] } | null)?.data_offsets ?? [];
    if (
      !(
        Number.isInteger(from) &&
        Number.isInteger(to) &&
        0 <= from! &&
        from! <= to! &&
        dataStart + to! <= bytes
      )
    )
      throw refuse(`the tensor ${JSON.stringify(name.slice(0, 200))} does not lie in the file`);
  }
}

/**
 * The files beside an ONNX graph that hold weights of it, as paths from the graph's own folder.
 * @throws ModelRefused for what is no ONNX, and for a path that could leave the folder
 */
export async function externalDataOf(file: RangedFile): Promise<string[]> {
  const refuse = (reason: string): ModelRefused => new ModelRefused(`${file.path} ${reason}`);
  const found = new Set<string>();
  let hasGraph = false;
  for await (const { kind, fields } of walk(file, refuse)) {
    if (kind === 'graph') hasGraph = true;
    if (kind !== 'entry' || fields[0] !== 'location') continue;
    const location = fields[1] ?? '';
    if (posix.isAbsolute(location) || /[\\:\0]/.test(location) || location.split('/').includes('..'))
      throw refuse(`reads weights outside of its folder: ${JSON.stringify(location.slice(0, 200))}`);
    found.add(posix.normalize(location));
  }
  if (!hasGraph) throw refuse('is not an ONNX graph');
  return [...found];
}

// The messages of onnx.proto that can hold a tensor, by the numbers of their fields; everything else is passed over.
const inside: Record<Kind, Record<number, Kind>> = {
  model: { 7: 'graph', 20: 'training', 25: 'function' },
  training: { 1: 'graph', 2: 'graph' },
  function: { 7: 'node', 11: 'attribute' },
  graph: { 1: 'node', 5: 'tensor', 15: 'sparse' },
  node: { 5: 'attribute' },
  attribute: { 5: 'tensor', 6: 'graph', 10: 'tensor', 11: 'graph', 22: 'sparse', 23: 'sparse' },
  sparse: { 1: 'tensor', 2: 'tensor' },
  tensor: { 13: 'entry' },
  entry: {},
};
type Kind =
  | 'model'
  | 'training'
  | 'function'
  | 'graph'
  | 'node'
  | 'attribute'
  | 'sparse'
  | 'tensor'
  | 'entry';

const mostFields = 500_000;
const mostDepth = 32;
const mostTextBytes = 4096;

/** Each message when its end is reached; `fields` of an entry are its key and its value. */
async function* walk(
  file: RangedFile,
  refuse: (reason: string) => ModelRefused,
): AsyncGenerator<{ kind: Kind; fields: string[] }> {
  const byteAt = byteReader(file);
  const broken = () => refuse('is not an ONNX graph, or is cut short');
  let at = 0;

  async function varint(end: number): Promise<number> {
    let value = 0;
    for (let shift = 0; shift < 70; shift += 7) {
      if (at >= end) throw broken();
      const read = byteAt(at++);
      const byte = typeof read === 'number' ? read : await read; // a promise for each byte would take seconds
      value += (byte & 0x7f) * 2 ** shift;
      if (byte < 0x80) return value;
    }
    throw broken();
  }

  const open: { kind: Kind; end: number; fields: string[] }[] = [
    { kind: 'model', end: file.bytes, fields: [] },
  ];
  for (let fields = 0; open.length > 0; fields++) {
    if (fields > mostFields) throw refuse(`has more than ${mostFields} parts`);
    const { kind, end, fields: texts } = open.at(-1)!;
    if (at === end) {
      yield { kind, fields: texts };
      open.pop();
      continue;
    }
    const tag = await varint(end);
    const [number, wire] = [Math.floor(tag / 8), tag % 8];
    if (wire === 0) await varint(end);
    else if (wire === 1 || wire === 5) at += wire === 1 ? 8 : 4;
    else if (wire !== 2) throw broken();
    else {
      const length = await varint(end);
      if (length > end - at) throw broken();
      const next = inside[kind][number];
      if (next !== undefined) {
        if (open.length === mostDepth) throw refuse(`is nested deeper than ${mostDepth} levels`);
        open.push({ kind: next, end: at + length, fields: [] });
        continue;
      }
      if (kind === 'entry' && (number === 1 || number === 2)) {
        if (length > mostTextBytes) throw broken();
        texts[number - 1] = (await file.read(at, at + length)).toString();
      }
      at += length;
    }
    if (at > end) throw broken();
  }
}

const pageBytes = 256 * 1024;

/** The byte at a place; near the one before it, at once. */
function byteReader({ bytes, read }: RangedFile): (at: number) => number | Promise<number> {
  let page: Uint8Array = new Uint8Array();
  let start = 0;
  return (at) => {
    const byte = page[at - start];
    if (byte !== undefined) return byte;
    return read(at, Math.min(at + pageBytes, bytes)).then((fresh) => {
      page = fresh;
      start = at;
      return page[0]!;
    });
  };
}
