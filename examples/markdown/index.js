'use strict';

const { render } = require('./markdown.js');

// handler renders the event's Markdown: {markdown} becomes {html, title, headings, words}. An event of an HTTP request, as
// function URLs and API Gateway send it, has its Markdown in the body and is answered with a page.
exports.handler = async (event) => {
  const request = event && event.requestContext;
  let source = request ? event.body : event && event.markdown;
  if (request && event.isBase64Encoded) source = Buffer.from(source || '', 'base64').toString();
  if (typeof source !== 'string') {
    if (request) return { statusCode: 400, headers: { 'content-type': 'text/plain' }, body: 'Send Markdown in the body.\n' };
    throw new TypeError('the event needs "markdown", a text');
  }
  const { html, headings } = render(source);
  const title = headings.length > 0 ? headings[0].text : 'Untitled';
  console.log(`rendered ${source.length} characters, ${headings.length} headings`);
  if (request) {
    return { statusCode: 200, headers: { 'content-type': 'text/html; charset=utf-8' }, body: page(headings, html) };
  }
  return { html, title, headings, words: (source.match(/[\p{L}\p{N}]+(['’-][\p{L}\p{N}]+)*/gu) || []).length };
};

function page(headings, html) {
  const title = headings.length > 0 ? headings[0].html.replace(/<[^>]*>/g, '') : 'Untitled';
  return `<!doctype html>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>${title}</title>
<style>body { font: 1.1em/1.5 sans-serif; max-width: 42em; margin: 2em auto; padding: 0 1em } pre { overflow: auto }</style>
${html}`;
}
