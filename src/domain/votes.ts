// Votes of several people on one pair, and the preference that follows from them.

/** How many voters preferred `a`, preferred `b`, found neither better. */
export interface Votes {
  a: number;
  b: number;
  tie: number;
}

export const noVotes: Readonly<Votes> = { a: 0, b: 0, tie: 0 };

export const voteCount = ({ a, b, tie }: Votes): number => a + b + tie;

/** The response with more votes than the other one and more than there are ties, else null: nobody knows. */
export function preferenceByVotes({ a, b, tie }: Votes): 'a' | 'b' | null {
  if (a > b && a > tie) return 'a';
  return b > a && b > tie ? 'b' : null;
}

/** Share of all votes that went to the preferred response, 0..1; null without votes. */
export function voteShare(votes: Votes, preference: 'a' | 'b'): number | null {
  const all = voteCount(votes);
  return all === 0 ? null : votes[preference] / all;
}
