// Reads what one statement gives in constant memory: one cursor, hence one consistent view, fetched in pages.
import type { Transaction } from './pool.ts';

/** @param name of the cursor, one at a time in a transaction */
export async function* readByCursor<Row extends object>(
  tx: Transaction,
  {
    name,
    statement,
    parameters,
    pageRows,
  }: { name: string; statement: string; parameters: unknown[]; pageRows: number },
): AsyncGenerator<Row> {
  await tx.query(`declare ${name} no scroll cursor for ${statement}`, parameters);
  for (;;) {
    const rows = await tx.query<Row>(`fetch ${pageRows} from ${name}`);
    if (rows.length === 0) break;
    yield* rows;
  }
  await tx.query(`close ${name}`);
}
