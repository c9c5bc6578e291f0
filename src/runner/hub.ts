// Models of a hub are fetched by the trainer's own code, before a run, so that runner and trainer read the same folder.
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { trainerEnvironment } from './trainer-process.ts';

const program = `
import sys
from finegrain_trainer.models import locate
from finegrain_trainer.spec import HubModel
print(locate(HubModel(sys.argv[1], sys.argv[2])))
`;

/** The folder of a hub model on this machine. @throws Error with what Python said */
export async function locateHubModel(
  python: string,
  environment: Record<string, string>,
  hub: string,
  revision: string,
): Promise<string> {
  const { stdout } = await promisify(execFile)(python, ['-c', program, hub, revision], {
    env: trainerEnvironment(environment),
  });
  return stdout.trim();
}
