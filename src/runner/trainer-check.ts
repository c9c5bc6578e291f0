// What a runner must know before it takes runs: that its trainer can be started, and which GPUs there are.
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { trainerEnvironment } from './trainer-process.ts';

export interface Device {
  name: string;
  memory_bytes: number;
  /** CUDA's compute capability, such as 9.0 */
  capability: string;
  /** the installed torch has code for it */
  supported: boolean;
}

/** What `python -m finegrain_trainer.devices` prints. */
export interface DeviceReport {
  torch: string;
  /** that torch was built for; null: a build for CPU */
  cuda: string | null;
  /** the newest CUDA that the driver serves; null: there is no driver */
  driver: string | null;
  devices: Device[];
  /** why a run on CUDA would fail */
  problem: string | null;
}

export interface TrainerPlace {
  python: string;
  /** what the trainer may see of this environment */
  trainerEnvironment: Record<string, string>;
  hardware: string[];
}

/**
 * The GPUs of a runner that offers `cuda`; none where it does not, as looking for them takes seconds. A runner that
 * cannot train would fail every run that it takes, so it must not start.
 * @throws Error that says what to do
 */
export async function checkTrainer(place: TrainerPlace): Promise<Device[]> {
  const { python, hardware } = place;
  if (!hardware.includes('cuda')) {
    await ask(place, ['-c', 'import finegrain_trainer.spec']);
    return [];
  }
  const { devices, problem } = await inspectDevices(place);
  if (problem === null) return devices;
  throw new Error(
    `FINEGRAIN_RUNNER_HARDWARE offers cuda, but with ${python} ${problem}. Without cuda, a runner takes the runs for cpu.`,
  );
}

export async function inspectDevices(place: TrainerPlace): Promise<DeviceReport> {
  return JSON.parse(await ask(place, ['-m', 'finegrain_trainer.devices']));
}

async function ask({ python, trainerEnvironment: listed }: TrainerPlace, args: string[]): Promise<string> {
  try {
    const options = { env: trainerEnvironment(listed), timeout: 120_000 };
    return (await promisify(execFile)(python, args, options)).stdout;
  } catch (error) {
    throw new Error(
      `The trainer cannot be started with ${python}: ${(error as Error).message}\nSet FINEGRAIN_PYTHON to a Python with runners/requirements.lock installed.`,
    );
  }
}
