// Computes one win rate in a thread of its own, started by win-rates.ts.
import { parentPort, workerData } from 'node:worker_threads';
import { computeWinRate } from '../domain/win-rate.ts';

parentPort!.postMessage(computeWinRate(workerData.judgements, workerData.options));
