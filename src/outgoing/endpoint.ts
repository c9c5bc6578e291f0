// What calls of an API that a project names have in common: where its routes are, and what may be told of its answers.

const shownLength = 500;
const shortestHiddenKey = 8; // a shorter one might be part of any word

/** `https://host/v1?version=2`, `/chat/completions` → `https://host/v1/chat/completions?version=2` */
export function routeOf(baseUrl: string, route: string): string {
  if (!URL.canParse(baseUrl)) return baseUrl; // whoever checks it says what is wrong
  const url = new URL(baseUrl);
  url.pathname = `${url.pathname.replace(/\/+$/, '')}${route}`;
  url.hash = '';
  return url.href;
}

/** An API may repeat the key, in an error message for one. */
export function withoutKey(text: string, key: string | null): string {
  if (key === null || key.length < shortestHiddenKey) return text;
  return text.replaceAll(key, '…').replaceAll(JSON.stringify(key).slice(1, -1), '…');
}

/** The beginning of an answer, without the key: to be shown to the project. */
export const excerptOf = (text: string, key: string | null): string =>
  withoutKey(text, key).replaceAll('\0', '').slice(0, shownLength).toWellFormed().trim() || 'nothing';
