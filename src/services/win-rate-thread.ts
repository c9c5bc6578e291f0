// Computes one win rate in a thread of its own, started by win-rates.ts.
import { parentPort, workerData } from 'node:worker_threads';
import { computeWinRate } from '../domain/win-rate.ts';
import type { ThreadWork } from './win-rates.ts';

const { judgements, options, beside } = workerData as ThreadWork;
parentPort!.postMessage(computeWinRate(judgements, options, beside));
