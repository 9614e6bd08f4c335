// Markdown as HTML: what CommonMark calls blocks (headings, lists, quotes, code) and GitHub's tables and task lists. HTML in
// the source is shown as text, so that the result is safe to put into a page whoever wrote the source.
'use strict';

const { escape, plain, renderInline, parseReference } = require('./inline.js');

const MAX_DEPTH = 50; // of quotes and lists in one another; deeper ones are text

// render returns {html, headings: [{level, id, text, html}]}.
function render(source) {
  const lines = source.replace(/\r\n?/g, '\n').replace(/\0/g, '\ufffd').split('\n').map(expandTabs);
  const document = { references: new Map(), headings: [], ids: new Map() };
  const blocks = parseBlocks(lines, document, 0);
  return { html: blocks.map((block) => renderBlock(block, document)).join('\n') + '\n', headings: document.headings };
}

// expandTabs turns the tabs of a line's indentation into spaces.
function expandTabs(line) {
  let out = '';
  for (let i = 0; i < line.length; i++) {
    if (line[i] === '\t') out += ' '.repeat(4 - (out.length % 4));
    else if (line[i] === ' ') out += ' ';
    else return out + line.slice(i);
  }
  return '';
}

const indentOf = (line) => line.length - line.trimStart().length;
const isBlank = (line) => line.trim() === '';

// None of these takes more than linear time, whatever the line.
const FENCE = /^ {0,3}(`{3,}|~{3,})([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})(?:\s|$)/;
const RULE = /^ {0,3}(?:(?:\*\s*){3,}|(?:-\s*){3,}|(?:_\s*){3,})$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( {0,3})([-+*]|\d{1,9}[.)])( +|$)(.*)$/;
const TABLE_RULE = /^:?-+:?$/;

// Each kind of block tries to read itself from lines[at] on, and returns {block, next}, or nothing. Order matters.
const KINDS = [readCode, readFence, readHeading, readRule, readQuote, readList, readTable, readReference];

function parseBlocks(lines, document, depth) {
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    if (isBlank(lines[at])) {
      at++;
      continue;
    }
    let read;
    for (const kind of KINDS) {
      read = kind(lines, at, document, depth);
      if (read) break;
    }
    read = read || readParagraph(lines, at);
    if (read.block) blocks.push(read.block);
    at = read.next;
  }
  return blocks;
}

function readCode(lines, at) {
  if (indentOf(lines[at]) < 4) return undefined;
  let next = at;
  while (next < lines.length && (isBlank(lines[next]) || indentOf(lines[next]) >= 4)) next++;
  let last = next;
  while (isBlank(lines[last - 1])) last--;
  const text = lines.slice(at, last).map((line) => line.slice(4)).join('\n');
  return { block: { kind: 'code', text, language: '' }, next };
}

function readFence(lines, at) {
  const open = FENCE.exec(lines[at]);
  if (!open) return undefined;
  const indent = indentOf(lines[at]);
  const close = new RegExp(`^ {0,3}${open[1][0] === '`' ? '`' : '~'}{${open[1].length},}\\s*$`);
  let next = at + 1;
  while (next < lines.length && !close.test(lines[next])) next++;
  const text = lines.slice(at + 1, next).map((line) => line.slice(Math.min(indent, indentOf(line)))).join('\n');
  return { block: { kind: 'code', text, language: open[2].trim().split(/\s+/)[0] }, next: next + 1 };
}

function readHeading(lines, at) {
  const match = HEADING.exec(lines[at]);
  if (!match) return undefined;
  const text = lines[at].slice(match[0].length).trim();
  let end = text.length; // of the text before a run of # that closes the heading
  while (text[end - 1] === '#') end--;
  const closed = end === 0 || /\s/.test(text[end - 1]);
  return { block: { kind: 'heading', level: match[1].length, text: closed ? text.slice(0, end).trimEnd() : text }, next: at + 1 };
}

function readRule(lines, at) {
  return RULE.test(lines[at]) ? { block: { kind: 'rule' }, next: at + 1 } : undefined;
}

function readQuote(lines, at, document, depth) {
  if (!QUOTE.test(lines[at]) || depth >= MAX_DEPTH) return undefined;
  const inner = [];
  let next = at;
  while (next < lines.length) {
    if (QUOTE.test(lines[next])) inner.push(lines[next].replace(QUOTE, ''));
    else if (!isLazy(lines[next], inner[inner.length - 1])) break;
    else inner.push(lines[next].trimStart());
    next++;
  }
  return { block: { kind: 'quote', blocks: parseBlocks(inner, document, depth + 1) }, next };
}

// isLazy tells whether a line without its container's mark still belongs to the paragraph that the container ends with.
function isLazy(line, previous) {
  return !isBlank(line) && !isBlank(previous) && !beginsBlock(line) && !beginsBlock(previous) && indentOf(previous) < 4;
}

function beginsBlock(line) {
  return FENCE.test(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line) || ITEM.test(line);
}

function readList(lines, at, document, depth) {
  const first = ITEM.exec(lines[at]);
  if (!first || depth >= MAX_DEPTH) return undefined;
  const mark = first[2].slice(-1);
  const items = [];
  let loose = false;
  let next = at;
  while (next < lines.length) {
    const item = ITEM.exec(lines[next]);
    if (!item || item[2].slice(-1) !== mark || RULE.test(lines[next])) break;
    const read = readItem(lines, next, item);
    const blocks = parseBlocks(read.lines, document, depth + 1);
    items.push({ blocks, task: read.task });
    next = read.next;
    const more = next < lines.length && ITEM.test(lines[next]);
    loose = loose || read.gap || (read.blankEnd && more);
  }
  const start = first[2].length > 1 ? Number(first[2].slice(0, -1)) : undefined;
  return { block: { kind: 'list', start, loose, items }, next };
}

// readItem takes the lines of a list item, without their indentation.
function readItem(lines, at, match) {
  const spaces = match[3].length >= 1 && match[3].length <= 4 && match[4] !== '' ? match[3].length : 1;
  const indent = match[1].length + match[2].length + spaces;
  const task = /^\[([ xX])\] +(?=\S)/.exec(match[4]);
  const rest = ' '.repeat(Math.max(0, match[3].length - spaces)) + match[4];
  const inner = [task ? match[4].slice(task[0].length) : rest];
  let blanks = 0;
  let gap = false; // a blank line between two blocks of the item: the list is loose
  let next = at + 1;
  for (; next < lines.length; next++) {
    const line = lines[next];
    if (isBlank(line)) {
      if (inner.length === 1 && inner[0] === '') break; // an empty item ends at a blank line
      blanks++;
      continue;
    }
    const inside = indentOf(line) >= indent;
    if (!inside && (blanks > 0 || !isLazy(line, inner[inner.length - 1]))) break;
    if (blanks > 0) gap = gap || !isFenced(inner);
    inner.push(...Array(blanks).fill(''), inside ? line.slice(indent) : line.trimStart());
    blanks = 0;
  }
  return { lines: inner, next, gap, blankEnd: blanks > 0, task: task ? task[1] !== ' ' : undefined };
}

function isFenced(lines) {
  let open = false;
  for (const line of lines) if (FENCE.test(line)) open = !open;
  return open;
}

function readTable(lines, at) {
  if (at + 1 >= lines.length || !lines[at].includes('|') || !lines[at + 1].includes('-')) return undefined;
  const head = splitRow(lines[at]);
  const rule = splitRow(lines[at + 1]);
  if (head.length !== rule.length || !rule.every((cell) => TABLE_RULE.test(cell))) return undefined;
  const aligns = rule.map((cell) => {
    if (/^:-*:$/.test(cell)) return 'center';
    return cell.endsWith(':') ? 'right' : cell.startsWith(':') ? 'left' : '';
  });
  const rows = [];
  let next = at + 2;
  for (; next < lines.length && !isBlank(lines[next]) && !beginsBlock(lines[next]); next++) {
    const cells = splitRow(lines[next]).slice(0, head.length);
    rows.push(cells.concat(Array(head.length - cells.length).fill('')));
  }
  return { block: { kind: 'table', head, aligns, rows }, next };
}

function splitRow(line) {
  const row = line.trim().replace(/^\|/, '').replace(/(^|[^\\])\|$/, '$1');
  return row.split(/(?<!\\)\|/).map((cell) => cell.trim().replace(/\\\|/g, '|'));
}

function readReference(lines, at, document) {
  const reference = parseReference(lines[at]);
  if (!reference) return undefined;
  if (!document.references.has(reference.label)) document.references.set(reference.label, reference);
  return { next: at + 1 };
}

function readParagraph(lines, at) {
  const text = [lines[at].trimStart()];
  let next = at + 1;
  for (; next < lines.length && !isBlank(lines[next]); next++) {
    const underline = /^ {0,3}(=+|-+)\s*$/.exec(lines[next]);
    if (underline) {
      const level = underline[1][0] === '=' ? 1 : 2;
      return { block: { kind: 'heading', level, text: text.join('\n').trim() }, next: next + 1 };
    }
    const item = ITEM.exec(lines[next]);
    // A number that happens to begin a line does not begin a list, unless it is the first.
    const interrupts = item ? item[4] !== '' && (item[2].length === 1 || parseInt(item[2], 10) === 1) : beginsBlock(lines[next]);
    if (interrupts) break;
    text.push(lines[next].trimStart());
  }
  return { block: { kind: 'paragraph', text: text.join('\n').trimEnd() }, next };
}

const RENDERERS = {
  rule: () => '<hr>',
  paragraph: (block, document) => `<p>${renderInline(block.text, document.references)}</p>`,
  quote: (block, document) => `<blockquote>\n${renderBlocks(block.blocks, document)}\n</blockquote>`,
  code: (block) => {
    const language = block.language ? ` class="language-${escape(block.language)}"` : '';
    return `<pre><code${language}>${escape(block.text)}${block.text ? '\n' : ''}</code></pre>`;
  },
  heading: renderHeading,
  list: renderList,
  table: renderTable,
};

function renderBlock(block, document) {
  return RENDERERS[block.kind](block, document);
}

function renderBlocks(blocks, document) {
  return blocks.map((block) => renderBlock(block, document)).join('\n');
}

function renderHeading(block, document) {
  const html = renderInline(block.text, document.references);
  const text = plain(html);
  const slug = text.toLowerCase().replace(/[^\p{L}\p{N}\s_-]/gu, '').trim().replace(/\s+/g, '-') || 'section';
  const count = document.ids.get(slug) || 0;
  document.ids.set(slug, count + 1);
  const id = count === 0 ? slug : `${slug}-${count}`;
  document.headings.push({ level: block.level, id, text, html });
  return `<h${block.level} id="${escape(id)}">${html}</h${block.level}>`;
}

function renderList(block, document) {
  const tag = block.start === undefined ? 'ul' : 'ol';
  const start = block.start !== undefined && block.start !== 1 ? ` start="${block.start}"` : '';
  const items = block.items.map(({ blocks, task }) => {
    const box = task === undefined ? '' : `<input type="checkbox" disabled${task ? ' checked' : ''}> `;
    const parts = blocks.map((inner) =>
      inner.kind === 'paragraph' && !block.loose ? renderInline(inner.text, document.references) : renderBlock(inner, document),
    );
    const multiline = block.loose && parts.length > 0 ? '\n' : '';
    return `<li>${multiline}${box}${parts.join('\n')}${multiline || (parts.length > 1 ? '\n' : '')}</li>`;
  });
  return `<${tag}${start}>\n${items.join('\n')}\n</${tag}>`;
}

function renderTable(block, document) {
  const row = (cells, tag) => {
    const rendered = cells.map((cell, i) => {
      const align = block.aligns[i] ? ` align="${block.aligns[i]}"` : '';
      return `<${tag}${align}>${renderInline(cell, document.references)}</${tag}>`;
    });
    return `<tr>${rendered.join('')}</tr>`;
  };
  const body = block.rows.map((cells) => row(cells, 'td')).join('\n');
  return `<table>\n<thead>\n${row(block.head, 'th')}\n</thead>${body ? `\n<tbody>\n${body}\n</tbody>` : ''}\n</table>`;
}

module.exports = { render };
