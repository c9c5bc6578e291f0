import type { StoredDraw } from './stored.ts';
import type { Trial } from './tuning.ts';

export async function writeResults(_draws: StoredDraw[], _tuning: Trial[]): Promise<void> {}
