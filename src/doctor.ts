// `finegrain doctor`: looks at an installation and says for each finding what to do. It changes nothing but one small
// artifact, which is the same every time, and prints no secret.
import type { ConfigInspection } from './config.ts';
import { type Check, type Report, runGroup } from './doctor/check.ts';
import { configurationChecks } from './doctor/configuration.ts';
import { databaseChecks } from './doctor/database.ts';
import { fileChecks } from './doctor/files.ts';
import { workChecks } from './doctor/work.ts';

/** The findings, as they come. */
export async function* examine(inspection: ConfigInspection): AsyncGenerator<Report> {
  const { config, secrets } = inspection;
  const alone = (checks: Check[]) => checks.map((check) => [check]);
  for (const group of [
    ...alone([...configurationChecks(inspection), ...fileChecks(config)]),
    ...databaseChecks(config),
    ...alone(workChecks(config)),
  ]) {
    for await (const report of runGroup(group)) yield withoutSecrets(report, secrets);
  }
}

/** One line: status, check, what was found, what to do. */
export function renderReport({ status, check, detail, advice }: Report): string {
  const found = `${status.padEnd(8)}${check.padEnd(17)}${detail}`.replaceAll(/\s*\n\s*/g, ' ');
  return advice === undefined ? found : `${found}  Do: ${advice}`;
}

const shortestSecret = 6; // a shorter one would black out words of the report

/** Messages of other programs may quote what they were given. */
function withoutSecrets(report: Report, secrets: string[]): Report {
  const clean = (text: string): string =>
    secrets
      .filter(({ length }) => length >= shortestSecret)
      .reduce((shown, secret) => shown.replaceAll(secret, '***'), text);
  const { advice } = report;
  return {
    ...report,
    detail: clean(report.detail),
    ...(advice === undefined ? {} : { advice: clean(advice) }),
  };
}
