// Checks HTML or SVG text as strictly as XML: every tag closed in order, attributes quoted and not given twice, `&` and `<`
// only in entities and tags.
const voidElements = new Set(['meta', 'br', 'link', 'img', 'hr', 'input']);
const rawElements = new Set(['style', 'script']);
const tag = /<(?:!doctype html|(\/)?([a-zA-Z][\w:-]*)((?:\s+[\w:-]+(?:\s*=\s*"[^"<]*")?)*)\s*(\/)?)>/gy;

/** The first thing that is wrong, with some text around it, or null. */
export function malformed(markup: string): string | null {
  const open: string[] = [];
  let at = 0;
  const wrong = (what: string) => `${what} at ${at}: ${JSON.stringify(markup.slice(at, at + 80))}`;
  while (at < markup.length) {
    if (markup[at] !== '<') {
      const end = markup.indexOf('<', at);
      const text = markup.slice(at, end === -1 ? undefined : end);
      if (/&(?!(amp|lt|gt|quot|#39);)/.test(text)) return wrong('a bare &');
      if (text.trim() !== '' && open.length === 0) return wrong('text outside');
      at += text.length;
      continue;
    }
    tag.lastIndex = at;
    const match = tag.exec(markup);
    if (!match) return wrong('no tag');
    const [whole, closing, name, attributes, selfClosing] = match;
    if (name) {
      const names = [...attributes!.matchAll(/\s([\w:-]+)(?=[=\s]|$)(?:="[^"]*")?/g)].map(
        (found) => found[1],
      );
      if (new Set(names).size < names.length) return wrong('an attribute twice');
      if (/&(?!(amp|lt|gt|quot|#39);)/.test(attributes!)) return wrong('a bare & in an attribute');
      if (closing) {
        if (open.pop() !== name) return wrong('not the open element');
      } else if (!selfClosing && !voidElements.has(name)) open.push(name);
    }
    at += whole.length;
    if (!closing && !selfClosing && rawElements.has(name ?? '')) {
      at = markup.indexOf(`</${name}>`, at);
      if (at === -1) return `<${name}> is not closed`;
    }
  }
  return open.length > 0 ? `not closed: ${open.join(', ')}` : null;
}
