// What stands within a line of Markdown: emphasis, code, links, images. Emphasis follows CommonMark's algorithm, which goes
// over the text once and keeps a stack of the marks that may still be opened.
'use strict';

const PUNCTUATION = /[\p{P}\p{S}]/u;
const NAMED = { amp: '&', lt: '<', gt: '>', quot: '"', apos: "'", nbsp: '\u00a0', copy: '©', reg: '®', hellip: '…', mdash: '—', ndash: '–', euro: '€' };
const MAX_LABEL = 999;

function escape(text) {
  return text.replace(/[&<>"]/g, (c) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' })[c]);
}

// plain returns the text of HTML that this file has made.
function plain(html) {
  return html
    .replace(/<img [^>]*alt="([^"]*)"[^>]*>/g, '$1')
    .replace(/<[^>]*>/g, '')
    .replace(/&(amp|lt|gt|quot);/g, (_, name) => NAMED[name]);
}

// safe tells whether a link may be followed without running a script: it is relative, or of a scheme that only shows.
function safe(url) {
  const scheme = /^([a-z][a-z0-9+.-]*):/i.exec(url.replace(/[\u0000-\u0020\u007f-\u00a0]/g, ''));
  return !scheme || ['http', 'https', 'mailto', 'tel', 'ftp'].includes(scheme[1].toLowerCase());
}

function encodeURL(url) {
  return escape(encodeURI(url.replace(/[\ud800-\udfff]/gu, '\ufffd')).replace(/%25([0-9a-f]{2})/gi, '%$1').replace(/%5B/gi, '[').replace(/%5D/gi, ']'));
}

function unescape(text) {
  return text.replace(/\\([!-/:-@[-`{-~])/g, '$1').replace(/&(#x[0-9a-f]{1,6}|#\d{1,7}|[a-z]+);/gi, (all, name) => entity(name) ?? all);
}

function entity(name) {
  if (name[0] !== '#') return NAMED[name];
  const code = /^#x/i.test(name) ? parseInt(name.slice(2), 16) : parseInt(name.slice(1), 10);
  return code > 0 && code <= 0x10ffff && !(code >= 0xd800 && code <= 0xdfff) ? String.fromCodePoint(code) : '\ufffd';
}

const normalLabel = (label) => label.trim().replace(/\s+/g, ' ').toLowerCase();

const TARGET = /^(?:<((?:[^<>\n\\]|\\.)*)>|((?:[^\s()\\]|\\.|\((?:[^\s()\\]|\\.)*\))*))/;
const TITLE = /^\s+(?:"((?:[^"\\]|\\[^])*)"|'((?:[^'\\]|\\[^])*)'|\(((?:[^()\\]|\\[^])*)\))/;

// parseReference reads "[label]: url 'title'".
function parseReference(line) {
  const head = /^ {0,3}\[((?:[^[\]\\]|\\.){1,999})\]:\s*(?=\S)/.exec(line);
  if (!head || head[1].trim() === '') return undefined;
  let rest = line.slice(head[0].length);
  const target = TARGET.exec(rest);
  rest = rest.slice(target[0].length);
  const title = TITLE.exec(rest);
  if (title) rest = rest.slice(title[0].length);
  if (rest.trim() !== '') return undefined;
  return { label: normalLabel(head[1]), url: unescape(target[1] ?? target[2]), title: titleOf(title) };
}

const titleOf = (match) => (match ? unescape(match[1] ?? match[2] ?? match[3]) : '');

// renderInline returns the HTML of a text.
function renderInline(text, references) {
  return new Line(text, references).render();
}

// A Line is a list of nodes: HTML, and runs of marks ({mark, count, opens, closes}) that may become emphasis.
class Line {
  constructor(text, references) {
    this.text = text;
    this.references = references;
    this.at = 0;
    this.nodes = [];
    this.brackets = []; // [ and ![ that no ] has met: {node, image, at, active}
    this.unclosed = new Set(); // lengths of runs of ` that nothing closes in the rest of the text
  }

  render() {
    while (this.at < this.text.length) this.step();
    this.emphasise(0);
    return this.join(0);
  }

  step() {
    const { text, at } = this;
    const c = text[at];
    switch (c) {
      case '\\': return this.backslash();
      case '`': return this.code();
      case '*': case '_': case '~': return this.marks(c);
      case '[': return this.open(1);
      case '!': return text[at + 1] === '[' ? this.open(2) : this.push(c, 1);
      case ']': return this.close();
      case '<': return this.angle();
      case '&': return this.entity();
      case '\n': return this.lineEnd();
      default: return this.plainText();
    }
  }

  push(html, length) {
    this.nodes.push({ html });
    this.at += length;
  }

  plainText() {
    const match = /[^\\`*_~[\]!<&\n]+/y;
    match.lastIndex = this.at;
    const run = match.exec(this.text)[0];
    const url = /(?<![\p{L}\p{N}])https?:\/\/[^\s<>"]*[^\s<>"'.,:;?)]/u.exec(run);
    if (!url || this.brackets.some((bracket) => bracket.active)) return this.push(escape(run), run.length);
    if (url.index > 0) return this.push(escape(run.slice(0, url.index)), url.index);
    // The address may go on with characters that are marks elsewhere.
    const whole = /https?:\/\/[^\s<>"\]]*[^\s<>"'.,:;?)\]*_~!]/y;
    whole.lastIndex = this.at;
    const address = (whole.exec(this.text) || url)[0];
    return this.push(`<a href="${encodeURL(address)}">${escape(address)}</a>`, address.length);
  }

  backslash() {
    const next = this.text[this.at + 1];
    if (next === '\n') return this.push('<br>\n', 2);
    return next && /[!-/:-@[-`{-~]/.test(next) ? this.push(escape(next), 2) : this.push('\\', 1);
  }

  code() {
    const ticks = /`+/y;
    ticks.lastIndex = this.at;
    const { length } = ticks.exec(this.text)[0];
    if (!this.unclosed.has(length)) {
      const closing = new RegExp(`(?<!\`)\`{${length}}(?!\`)`, 'g');
      closing.lastIndex = this.at + length;
      const end = closing.exec(this.text);
      if (end) {
        let code = this.text.slice(this.at + length, end.index).replace(/\n/g, ' ');
        if (code.startsWith(' ') && code.endsWith(' ') && code.trim() !== '') code = code.slice(1, -1);
        return this.push(`<code>${escape(code)}</code>`, end.index + length - this.at);
      }
      this.unclosed.add(length);
    }
    return this.push('`'.repeat(length), length);
  }

  marks(mark) {
    let end = this.at;
    while (this.text[end] === mark) end++;
    const count = end - this.at;
    const before = [...this.text.slice(Math.max(0, this.at - 2), this.at)].pop() ?? ' ';
    const after = String.fromCodePoint(this.text.codePointAt(end) ?? 32);
    const left = !/\s/.test(after) && (!PUNCTUATION.test(after) || /\s/.test(before) || PUNCTUATION.test(before));
    const right = !/\s/.test(before) && (!PUNCTUATION.test(before) || /\s/.test(after) || PUNCTUATION.test(after));
    const word = mark === '_'; // an underscore within a word is part of it
    const opens = left && (!word || !right || PUNCTUATION.test(before));
    const closes = right && (!word || !left || PUNCTUATION.test(after));
    const usable = mark !== '~' || count <= 2;
    this.nodes.push({ mark, count, total: count, opens: opens && usable, closes: closes && usable, before: '', after: '' });
    this.at = end;
  }

  open(length) {
    this.nodes.push({ html: this.text.slice(this.at, this.at + length) });
    this.at += length;
    this.brackets.push({ node: this.nodes.length - 1, image: length === 2, at: this.at, active: true });
  }

  close() {
    const bracket = this.brackets.pop();
    const link = bracket && bracket.active ? this.target(bracket) : undefined;
    if (!link) return this.push(']', 1);
    this.emphasise(bracket.node + 1);
    const inner = this.join(bracket.node + 1);
    this.nodes.length = bracket.node;
    this.at = link.end;
    const title = link.title ? ` title="${escape(link.title)}"` : '';
    if (!safe(link.url)) return this.push(bracket.image ? escape(plain(inner)) : inner, 0);
    if (bracket.image) return this.push(`<img src="${encodeURL(link.url)}" alt="${escape(plain(inner))}"${title}>`, 0);
    for (const outer of this.brackets) if (!outer.image) outer.active = false; // links do not contain links
    return this.push(`<a href="${encodeURL(link.url)}"${title}>${inner}</a>`, 0);
  }

  // target reads what follows a closing bracket: (url "title"), [label], [], or nothing.
  target(bracket) {
    const rest = this.text.slice(this.at + 1);
    if (rest[0] === '(') {
      const space = /^\(\s*/.exec(rest)[0].length;
      const url = TARGET.exec(rest.slice(space));
      let end = space + url[0].length;
      const title = TITLE.exec(rest.slice(end));
      if (title) end += title[0].length;
      const close = /^\s*\)/.exec(rest.slice(end));
      if (close) {
        return { url: unescape(url[1] ?? url[2]), title: titleOf(title), end: this.at + 1 + end + close[0].length };
      }
    }
    const label = /^\[((?:[^[\]\\]|\\.){0,999})\]/.exec(rest);
    const own = this.text.slice(bracket.at, Math.min(this.at, bracket.at + MAX_LABEL));
    const found = this.references.get(normalLabel(label && label[1].trim() ? label[1] : own));
    return found && { url: found.url, title: found.title, end: this.at + 1 + (label ? label[0].length : 0) };
  }

  angle() {
    const url = /<([a-z][a-z0-9+.-]{1,31}:[^\s<>]*)>/iy;
    const mail = /<([\w.!#$%&'*+/=?^`{|}~-]+@[a-z0-9-]+(?:\.[a-z0-9-]+)*)>/iy;
    for (const [pattern, prefix] of [[url, ''], [mail, 'mailto:']]) {
      pattern.lastIndex = this.at;
      const match = pattern.exec(this.text);
      if (match && safe(prefix + match[1])) {
        return this.push(`<a href="${encodeURL(prefix + match[1])}">${escape(match[1])}</a>`, match[0].length);
      }
    }
    return this.push('&lt;', 1);
  }

  entity() {
    const pattern = /&(#x[0-9a-f]{1,6}|#\d{1,7}|[a-z]+);/iy;
    pattern.lastIndex = this.at;
    const match = pattern.exec(this.text);
    const character = match && entity(match[1]);
    return character ? this.push(escape(character), match[0].length) : this.push('&amp;', 1);
  }

  lineEnd() {
    const last = this.nodes[this.nodes.length - 1];
    const spaces = last && last.html ? / *$/.exec(last.html)[0].length : 0;
    if (spaces > 0) last.html = last.html.slice(0, -spaces);
    return this.push(spaces >= 2 ? '<br>\n' : '\n', 1);
  }

  // emphasise pairs the marks from a node on.
  emphasise(from) {
    const openers = []; // indices of nodes
    const floors = {}; // by kind of closer: below this place among the openers none fits
    for (let i = from; i < this.nodes.length; i++) {
      const closer = this.nodes[i];
      if (!closer.mark) continue;
      while (closer.closes && closer.count > 0) {
        const kind = `${closer.mark} ${closer.opens} ${closer.mark === '~' ? closer.count : closer.total % 3}`;
        const floor = Math.min(floors[kind] ?? 0, openers.length);
        let k = openers.length - 1;
        while (k >= floor && !pairs(this.nodes[openers[k]], closer)) k--;
        if (k < floor) {
          floors[kind] = openers.length;
          break;
        }
        openers.length = k + 1; // what opened in between stays text
        for (const other of Object.keys(floors)) floors[other] = Math.min(floors[other], k);
        const opener = this.nodes[openers[k]];
        const width = closer.mark === '~' ? closer.count : Math.min(2, opener.count, closer.count);
        const tag = closer.mark === '~' ? 'del' : width === 2 ? 'strong' : 'em';
        opener.after = `<${tag}>${opener.after}`;
        closer.before += `</${tag}>`;
        opener.count -= width;
        closer.count -= width;
        if (opener.count === 0) openers.pop();
      }
      if (closer.opens && closer.count > 0) openers.push(i);
    }
  }

  join(from) {
    return this.nodes
      .slice(from)
      .map((node) => node.html ?? node.before + node.mark.repeat(node.count) + node.after)
      .join('');
  }
}

// pairs tells whether two runs of marks belong together. The rule of three keeps ***a** b* and the like apart.
function pairs(opener, closer) {
  if (opener.mark !== closer.mark) return false;
  if (closer.mark === '~') return opener.count === closer.count;
  const both = opener.closes || closer.opens;
  return !(both && (opener.total + closer.total) % 3 === 0 && (opener.total % 3 !== 0 || closer.total % 3 !== 0));
}

module.exports = { escape, parseReference, plain, renderInline };
