// One suite for every provider: creates a function for each case, invokes it over HTTP, and looks at the answer.
//   SANDBAR_URL, SANDBAR_TOKEN   the server
//   PROVIDER                     what it says that it ran them with
//   PROFILE                      whose differences are allowed for: quickjs, bun-worker, sandbar-executor, node-executor
//   WEB_ADDRESS                  an address and port of this machine, where the suite serves what scripts fetch
//   ONLY                         names of groups, or GROUP/NAME
import assert from 'node:assert/strict';
import { differences, lacks } from './differences.mjs';
import { serve } from './web.mjs';

const { SANDBAR_URL, SANDBAR_TOKEN, PROVIDER, PROFILE, WEB_ADDRESS, CANARY_FILE, ONLY } = process.env;
const GROUPS = ['values', 'errors', 'console', 'context', 'limits', 'web', 'language', 'typescript', 'fetch', 'db', 'mail', 'isolation', 'deterministic', 'escape'];
const AT_ONCE = 6;

const api = async (method, path, body, raw) => {
  const headers = { authorization: `Bearer ${SANDBAR_TOKEN}` };
  if (body !== undefined || raw) headers['content-type'] = 'application/json';
  const response = await fetch(SANDBAR_URL + path, { method, headers, body: raw ?? (body === undefined ? undefined : JSON.stringify(body)) });
  const text = await response.text();
  let json;
  try {
    json = JSON.parse(text);
  } catch {
    throw new Error(`${method} ${path}: ${response.status} and no JSON: ${text.slice(0, 200)}`);
  }
  return { status: response.status, json };
};

const must = async (status, method, path, body) => {
  const answer = await api(method, path, body);
  assert.equal(answer.status, status, `${method} ${path}: ${JSON.stringify(answer.json).slice(0, 400)}`);
  return answer.json.data;
};

const prepare = async () => {
  const field = (name, type) => ({ name, type });
  await must(201, 'POST', '/api/collections', { slug: 'posts', fields: [field('title', 'string'), field('n', 'integer'), field('tag', 'string')], permissions: [] });
  await must(201, 'POST', '/api/collections', { slug: 'hidden', fields: [field('title', 'string')], permissions: [] });
  const shown = { role: 'public', action: 'read', fields: ['title'] };
  await must(201, 'POST', '/api/collections', { slug: 'open', fields: [field('title', 'string'), field('secret', 'string')], permissions: [shown] });
  for (let n = 1; n <= 60; n++) await must(201, 'POST', '/api/items/posts', { title: `post ${n}`, n, tag: n % 2 ? 'odd' : 'even' });
  await must(201, 'POST', '/api/items/hidden', { title: 'x' });
  await must(201, 'POST', '/api/items/open', { title: 'shown', secret: 'not' });
};

const lines = (logs) => logs.map((line) => (typeof line === 'string' ? line : line.text));

// Throws what is wrong.
const judge = async (test, name) => {
  const spec = { timeoutMs: test.timeoutMs ?? 20000, ...test.spec };
  const create = await api('POST', '/api/functions', { name, trigger: 'http', code: test.code, language: test.language, authorKind: 'operator', ...spec });
  if (test.refused) {
    assert.equal(create.status, 400, `saved: ${JSON.stringify(create.json).slice(0, 300)}`);
    const { code, message } = create.json.error;
    assert.equal(code, 'BAD_REQUEST');
    if (test.refused.line) assert.match(message, new RegExp(`line ${test.refused.line}\\b`));
    if (test.refused.column) assert.match(message, new RegExp(`column ${test.refused.column}\\b`));
    return;
  }
  assert.equal(create.status, 201, `not saved: ${JSON.stringify(create.json).slice(0, 300)}`);
  for (const [secret, value] of Object.entries(test.secrets ?? {})) {
    const put = await api('PUT', `/api/functions/${create.json.data.id}/secrets/${secret}`, { value });
    assert.ok(put.status < 300, `no secret: ${JSON.stringify(put.json)}`);
  }
  const data = 'data' in test ? test.data : { web: web.url, closed: closed.url, canary: CANARY_FILE, server: SANDBAR_URL };
  const invoke = () => api('POST', `/api/functions/${name}/invoke`, undefined, test.body ?? JSON.stringify(data));
  const { status, json: result } = await invoke();
  const shown = JSON.stringify(result).slice(0, 500);
  if (test.status) return assert.equal(status, test.status, shown);
  if (result.provider !== undefined) assert.equal(result.provider, test.provider ?? PROVIDER, shown);
  assert.equal(typeof result.durationMs, 'number', shown);
  if (test.anything) {
    assert.equal(typeof result.ok, 'boolean', shown);
    return assert.ok(!test.check || test.check(result.value), shown);
  }
  if (test.fails) fails(test, status, result, shown, name);
  else {
    assert.equal(result.ok, true, shown);
    assert.equal(status, 200, shown);
    assert.ok(!('error' in result), shown);
    if (test.absent) assert.ok(!('value' in result), shown);
    if (test.check) assert.ok(test.check(result.value), shown);
    if (test.same) assert.deepEqual((await invoke()).json.value, result.value);
    if ('value' in test) assert.deepEqual(result.value, test.value, shown);
  }
  if (test.logs) assert.deepEqual(lines(result.logs), test.logs, shown);
  if (test.checkLogs) assert.ok(test.checkLogs(lines(result.logs)), `${result.logs.length} lines: ${shown}`);
};

const fails = (test, status, result, shown, name) => {
  assert.equal(result.ok, false, shown);
  assert.equal(status, 500, shown);
  assert.ok(!('value' in result), shown);
  assert.equal(typeof result.error, 'string', shown);
  if (test.error instanceof RegExp) assert.match(result.error, test.error);
  else if (test.error) assert.ok(result.error.includes(test.error), shown);
  // An executor of the reference wire tells the message alone.
  if (PROFILE === 'node-executor') return;
  assert.equal(result.code, test.fails, shown);
  if (test.errorName) assert.equal(result.errorName, test.errorName, shown);
  if (test.line || test.frames) {
    const frames = result.stack.split('\n').filter((line) => /^\s*at /.test(line));
    if (test.line) assert.match(frames[0], new RegExp(`\\b${test.line}:\\d+\\)?$`), shown);
    (test.frames ?? []).forEach((frame, at) => assert.ok(frames[at].includes(frame), shown));
    for (const frame of frames) assert.ok(frame.includes(name) || (test.foreignFrame && frame.includes(test.foreignFrame)), `a frame that is not the script's: ${frame}`);
  }
};

const isWanted = (group, test) => (!test.only || test.only.includes(PROFILE)) && (!ONLY || ONLY.split(',').some((only) => only === group || only === `${group}/${test.name}`));

const [host, port] = WEB_ADDRESS.split(':');
const web = await serve(host, Number(port));
const closed = await serve(host, 0);
const tests = [];
for (const group of GROUPS) {
  const { default: cases } = await import(`./cases/${group}.mjs`);
  for (const test of cases) if (isWanted(group, test)) tests.push({ group, ...test, name: test.name });
}
await prepare();
const different = [];
const failed = [];
let passed = 0;
const one = async (test, at) => {
  const name = `case_${at}`;
  const missing = lacks[PROFILE][test.needs];
  const difference = missing ? { why: missing } : differences[`${test.group}/${test.name}`]?.[PROFILE];
  if (difference) different.push(`${test.group}/${test.name}: ${difference.why}`);
  if (difference && !difference.instead) return;
  try {
    await judge(difference ? { ...test, ...difference.instead } : test, name);
    passed += 1;
  } catch (error) {
    failed.push(`FAIL ${PROFILE} ${test.group}/${test.name}: ${error.message}`);
    console.log(failed.at(-1));
  }
};
const numbered = tests.map((test, at) => [test, at]);
// Always, or with these profiles: calls of a team share one process of Bun, and its memory.
const isSerial = ({ serial }) => serial === true || Boolean(serial?.includes?.(PROFILE));
const queue = numbered.filter(([test]) => !isSerial(test));
await Promise.all(Array.from({ length: AT_ONCE }, async () => {
  for (let next; (next = queue.shift()); ) await one(...next);
}));
for (const round of [0, 1]) for (const [test, at] of numbered.filter(([test]) => isSerial(test))) await one(test, `${at}_${round}`);
for (const line of new Set(different)) console.log(`DIFFERENT ${PROFILE} ${line}`);
console.log(`${failed.length ? 'FAIL' : 'PASS'} conformance ${PROFILE}: ${passed} passed, ${failed.length} failed, ${new Set(different).size} different (of ${tests.length} cases)`);
process.exit(failed.length ? 1 : 0);
