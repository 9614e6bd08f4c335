'use strict';

const assert = require('node:assert/strict');
const { test } = require('node:test');
const { handler } = require('./index.js');
const { render } = require('./markdown.js');

// Each group maps Markdown to the HTML it becomes.
const groups = {
  headings: {
    '# A': '<h1 id="a">A</h1>',
    '### A *b* ###': '<h3 id="a-b">A <em>b</em></h3>',
    '#no': '<p>#no</p>',
    '# #': '<h1 id="section"></h1>',
    '# a#': '<h1 id="a">a#</h1>',
    '####### seven': '<p>####### seven</p>',
    'A\n===': '<h1 id="a">A</h1>',
    'A\nb\n---': '<h2 id="a-b">A\nb</h2>',
    '# A\n# A': '<h1 id="a">A</h1>\n<h1 id="a-1">A</h1>',
    '# Größe & "x"': '<h1 id="größe-x">Größe &amp; &quot;x&quot;</h1>',
  },
  paragraphs: {
    '': '',
    'a\nb\n\nc': '<p>a\nb</p>\n<p>c</p>',
    'a  \nb\\\nc': '<p>a<br>\nb<br>\nc</p>',
    '---\n***\n_ _ _': '<hr>\n<hr>\n<hr>',
    'a\r\nb': '<p>a\nb</p>',
  },
  code: {
    '    a\n\n    b\n': '<pre><code>a\n\nb\n</code></pre>',
    '\ta': '<pre><code>a\n</code></pre>',
    '```js x\n<a> & "b"\n```': '<pre><code class="language-js">&lt;a&gt; &amp; &quot;b&quot;\n</code></pre>',
    '~~~\n```\n~~~': '<pre><code>```\n</code></pre>',
    '```\nopen\n\nend': '<pre><code>open\n\nend\n</code></pre>',
    '```\n```': '<pre><code></code></pre>',
    '`a`` b`': '<p><code>a`` b</code></p>',
    '`` `x` ``': '<p><code>`x`</code></p>',
    '`*a*` `open': '<p><code>*a*</code> `open</p>',
  },
  quotes: {
    '> a\n> b': '<blockquote>\n<p>a\nb</p>\n</blockquote>',
    '> a\nlazy': '<blockquote>\n<p>a\nlazy</p>\n</blockquote>',
    '> a\n\nb': '<blockquote>\n<p>a</p>\n</blockquote>\n<p>b</p>',
    '> # a\n> > b': '<blockquote>\n<h1 id="a">a</h1>\n<blockquote>\n<p>b</p>\n</blockquote>\n</blockquote>',
  },
  lists: {
    '- a\n- b': '<ul>\n<li>a</li>\n<li>b</li>\n</ul>',
    '* a\n\n* b': '<ul>\n<li>\n<p>a</p>\n</li>\n<li>\n<p>b</p>\n</li>\n</ul>',
    '3. a\n4. b': '<ol start="3">\n<li>a</li>\n<li>b</li>\n</ol>',
    '- a\n  - b\n    - c\n- d': '<ul>\n<li>a\n<ul>\n<li>b\n<ul>\n<li>c</li>\n</ul>\n</li>\n</ul>\n</li>\n<li>d</li>\n</ul>',
    '- a\n+ b': '<ul>\n<li>a</li>\n</ul>\n<ul>\n<li>b</li>\n</ul>',
    '- a\nlazy': '<ul>\n<li>a\nlazy</li>\n</ul>',
    '1) a\n\n   b': '<ol>\n<li>\n<p>a</p>\n<p>b</p>\n</li>\n</ol>',
    '- [x] a\n- [ ] b': '<ul>\n<li><input type="checkbox" disabled checked> a</li>\n<li><input type="checkbox" disabled> b</li>\n</ul>',
    'year\n2026. not a list': '<p>year\n2026. not a list</p>',
    '- ```\n  a\n\n  b\n  ```': '<ul>\n<li><pre><code>a\n\nb\n</code></pre></li>\n</ul>',
    '-\n\ntext': '<ul>\n<li></li>\n</ul>\n<p>text</p>',
  },
  tables: {
    '|a|b|\n|:-|-:|\n|1|2|': '<table>\n<thead>\n<tr><th align="left">a</th><th align="right">b</th></tr>\n</thead>\n<tbody>\n<tr><td align="left">1</td><td align="right">2</td></tr>\n</tbody>\n</table>',
    'a|b\n-|:-:\n1\n`x\\|y`|2|3': '<table>\n<thead>\n<tr><th>a</th><th align="center">b</th></tr>\n</thead>\n<tbody>\n<tr><td>1</td><td align="center"></td></tr>\n<tr><td><code>x|y</code></td><td align="center">2</td></tr>\n</tbody>\n</table>',
    'a|b\n-': '<h2 id="ab">a|b</h2>',
  },
  emphasis: {
    '*a* _b_ **c** __d__ ***e***': '<p><em>a</em> <em>b</em> <strong>c</strong> <strong>d</strong> <em><strong>e</strong></em></p>',
    'snake_case_name 2*3*4': '<p>snake_case_name 2<em>3</em>4</p>',
    '**a *b* c**': '<p><strong>a <em>b</em> c</strong></p>',
    '*a **b***': '<p><em>a <strong>b</strong></em></p>',
    '** a ** * b *': '<p>** a ** * b *</p>',
    '*a **b*': '<p>*a *<em>b</em></p>',
    '*foo**bar*': '<p><em>foo**bar</em></p>',
    '~~a~~ ~b~ ~~~c': '<p><del>a</del> <del>b</del> ~~~c</p>',
    '\\*a\\* \\a': '<p>*a* \\a</p>',
    '**«a»**b': '<p>**«a»**b</p>',
  },
  links: {
    '[a *b*](http://x.y/?a=1&b=2 "t\\"")': '<p><a href="http://x.y/?a=1&amp;b=2" title="t&quot;">a <em>b</em></a></p>',
    '[a](<b c> \'t\')': '<p><a href="b%20c" title="t">a</a></p>',
    '[a](x(y)z)': '<p><a href="x(y)z">a</a></p>',
    '![a *b*](i.png)': '<p><img src="i.png" alt="a b"></p>',
    '[![i](i.png)](l)': '<p><a href="l"><img src="i.png" alt="i"></a></p>',
    '[a [b](c) d](e)': '<p>[a <a href="c">b</a> d](e)</p>',
    '[A][r] [r][] [R] [no]\n\n[r]: /u "t"': '<p><a href="/u" title="t">A</a> <a href="/u" title="t">r</a> <a href="/u" title="t">R</a> [no]</p>',
    '<https://x.y/z> <a@b.c>': '<p><a href="https://x.y/z">https://x.y/z</a> <a href="mailto:a@b.c">a@b.c</a></p>',
    'see https://x.y/a_b*c?d, and (http://e.f).': '<p>see <a href="https://x.y/a_b*c?d">https://x.y/a_b*c?d</a>, and (<a href="http://e.f">http://e.f</a>).</p>',
    '[a](b%20c) [ü](ü)': '<p><a href="b%20c">a</a> <a href="%C3%BC">ü</a></p>',
    '*[a*](b)': '<p>*<a href="b">a*</a></p>',
  },
  safety: {
    '<script>alert(1)</script>': '<p>&lt;script&gt;alert(1)&lt;/script&gt;</p>',
    '[a](javascript:alert(1))': '<p>a</p>',
    '[a](java\\script&#58;alert(1)) ![b](data:text/html,x)': '<p><a href="java%5Cscript:alert(1)">a</a> b</p>',
    '[a](&#106;avascript:alert(1))': '<p>a</p>',
    '<javascript:alert(1)>': '<p>&lt;javascript:alert(1)&gt;</p>',
    '![a" onerror="x](i.png "t\\" onload=\\"x")': '<p><img src="i.png" alt="a&quot; onerror=&quot;x" title="t&quot; onload=&quot;x"></p>',
    '```"><b>\nx\n```': '<pre><code class="language-&quot;&gt;&lt;b&gt;">x\n</code></pre>',
    '&lt; &amp; &copy; &#65; &#x0; &nope; &': '<p>&lt; &amp; © A \ufffd &amp;nope; &amp;</p>',
  },
};

for (const [group, cases] of Object.entries(groups)) {
  test(group, () => {
    for (const [source, html] of Object.entries(cases)) assert.equal(render(source).html, html + '\n', source);
  });
}

test('no text takes long', () => {
  const many = (text) => text.repeat(50000);
  const texts = ['*a ', '_a*', '[', '![', '](', '`', '``` ', '> ', '- ', '\\', '&', '<', '#', '# ', '|', '|-', ' ', '\n', '~', '[a](', '[a]: ', '**a_b', '1. ', '"', 'http://'];
  for (const text of texts) {
    for (const source of [many(text), `a${many(text)}b`, `# ${many(text)}x`, `a|b\n-|-${many(text)}x`, '```' + many(text) + '`']) {
      const begin = process.hrtime.bigint();
      assert.equal(typeof render(source).html, 'string');
      const milliseconds = Number(process.hrtime.bigint() - begin) / 1e6;
      assert.ok(milliseconds < 5000, `${JSON.stringify(text)} took ${milliseconds} ms`);
    }
  }
});

test('every text is rendered without tags of its own', () => {
  const parts = ['*', '_', '`', '[', ']', '(', ')', '<', '>', '!', '\n', ' ', '    ', '- ', '1. ', '> ', '#', '|', '-', '~', '\\', '&lt;', '"', 'a', 'javascript:', 'http://a'];
  let seed = 1;
  const random = (below) => (seed = (seed * 48271) % 2147483647) % below;
  const allowed = /^<\/?(p|h[1-6]|em|strong|del|code|pre|a|img|ul|ol|li|blockquote|hr|br|input|table|thead|tbody|tr|th|td)( [a-z]+(="[^"<>]*")?)*>$/;
  for (let round = 0; round < 3000; round++) {
    const source = Array.from({ length: random(40) }, () => parts[random(parts.length)]).join('');
    const { html } = render(source);
    for (const tag of html.match(/<[^>]*>/g) || []) assert.match(tag, allowed, JSON.stringify(source));
    assert.doesNotMatch(html, /(href|src)="javascript:/, JSON.stringify(source));
  }
});

test('the handler', async () => {
  const event = require('./event.json');
  const answer = await handler(event);
  assert.equal(answer.title, 'Lambent');
  assert.match(answer.html, /<h1 id="lambent">Lambent<\/h1>/);
  assert.deepEqual((await handler({ markdown: "# A\n\nit's two-fold é" })).words, 4);
  await assert.rejects(handler({}), /the event needs "markdown"/);
  await assert.rejects(handler(null), TypeError);
});

test('the handler as a web page', async () => {
  const request = (body, isBase64Encoded = false) => handler({ requestContext: {}, body, isBase64Encoded });
  const page = await request('# A *b* & c');
  assert.equal(page.statusCode, 200);
  assert.match(page.body, /<title>A b &amp; c<\/title>/);
  assert.match((await request(Buffer.from('# é').toString('base64'), true)).body, /<h1 id="é">é<\/h1>/);
  assert.equal((await request(undefined)).statusCode, 400);
});
