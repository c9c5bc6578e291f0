/** Gaussian elimination with pivots; null when the matrix is singular. @param matrix [n, n] @param right [n] */
export function solve(matrix: readonly number[][], right: readonly number[]): number[] | null {
  const solved = solveAll(
    matrix,
    right.map((value) => [value]),
  );
  return solved?.map(([value]) => value!) ?? null;
}

/** Null when the matrix is singular. */
export function invert(matrix: readonly number[][]): number[][] | null {
  return solveAll(
    matrix,
    matrix.map((_, k) => matrix.map((_, l) => (k === l ? 1 : 0))),
  );
}

/** @param right [n, columns] */
function solveAll(matrix: readonly number[][], right: readonly number[][]): number[][] | null {
  const size = matrix.length;
  const rows = matrix.map((row, k) => [...row, ...right[k]!]);
  for (let k = 0; k < size; k++) {
    let pivot = k;
    for (let other = k + 1; other < size; other++)
      if (Math.abs(rows[other]![k]!) > Math.abs(rows[pivot]![k]!)) pivot = other;
    [rows[k], rows[pivot]] = [rows[pivot]!, rows[k]!];
    if (!(Math.abs(rows[k]![k]!) > 1e-12)) return null;
    for (let other = 0; other < size; other++) {
      if (other === k) continue;
      const factor = rows[other]![k]! / rows[k]![k]!;
      if (factor === 0) continue;
      for (let l = k; l < rows[k]!.length; l++) rows[other]![l]! -= factor * rows[k]![l]!;
    }
  }
  return rows.map((row, k) => row.slice(size).map((value) => value / row[k]!));
}
