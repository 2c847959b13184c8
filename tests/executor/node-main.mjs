// A main app of the wire of remote-http that is not ours: it posts jobs to an executor and answers what that calls back for.
//   EXECUTOR_URL   the executor
import assert from 'node:assert/strict';
import http from 'node:http';
import { randomBytes } from 'node:crypto';

const executor = process.env.EXECUTOR_URL.replace(/\/+$/, '');
const token = randomBytes(24).toString('hex');
const asked = [];
const answers = {
  fetch: ({ url }) => {
    if (!url.startsWith('https://api.example.com/')) throw new Error(`URL not in fetch allow-list: ${url}`);
    return { status: 200, ok: true, text: '{"embedding":[1,2,3]}' };
  },
  'db.list': ({ slug, query }) => {
    if (slug !== 'posts') throw new Error(`Collection "${slug}" not found`);
    return Array.from({ length: query?.limit ?? 2 }, (_, n) => ({ id: String(n), title: `post ${n}`, createdAt: '2024-01-01T00:00:00.000Z' }));
  },
  'db.one': ({ id }) => (id === '1' ? { id, title: 'one' } : null),
  'email.send': () => true,
};

const main = http.createServer(async (request, response) => {
  const send = (status, body) => response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body));
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  if (request.method !== 'POST' || request.url !== '/api/_internal/sandbox-rpc') return send(404, { error: 'not found' });
  if (request.headers.authorization !== `Bearer ${token}`) return send(401, { error: 'unauthorized' });
  const body = JSON.parse(Buffer.concat(chunks));
  asked.push(body);
  if (!answers[body.op]) return send(400, { ok: false, error: 'bad op' });
  try {
    send(200, { ok: true, value: answers[body.op](body.args) });
  } catch (error) {
    send(200, { ok: false, error: error.message });
  }
});
await new Promise((done) => main.listen(0, '127.0.0.1', done));
const mainOrigin = `http://127.0.0.1:${main.address().port}`;
const user = { id: 'u1', email: 'u1@example.com', roles: ['admin'], tenantId: 't1' };

const run = async (code, more = {}) => {
  const job = { code, data: { n: 41 }, user, timeoutMs: 3000, mainOrigin, rpcToken: token, ...more };
  const response = await fetch(`${executor}/run`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(job) });
  return { status: response.status, ...(await response.json()) };
};
let passed = 0;
const check = async (name, work) => {
  try {
    await work();
    passed += 1;
    console.log(`PASS executor ${name}`);
  } catch (error) {
    console.log(`FAIL executor ${name}: ${error.message}`);
    process.exitCode = 1;
  }
};

await check('is healthy', async () => assert.equal((await (await fetch(`${executor}/health`)).text()).trim(), 'ok'));
await check('runs', async () => {
  const r = await run("console.log('a', { b: 1 }); return ctx.data.n + 1");
  assert.deepEqual([r.status, r.ok, r.value, r.logs], [200, true, 42, ['a {"b":1}']]);
});
await check('knows who calls', async () => assert.deepEqual((await run('return [ctx.user.id, ctx.user.email, ctx.user.roles]')).value, ['u1', 'u1@example.com', ['admin']]));
await check('calls back, many at once', async () => {
  asked.length = 0;
  const r = await run("const [f, l, o] = await Promise.all([ctx.fetch('https://api.example.com/x', { method: 'POST', body: 'b' }), ctx.db.list('posts', { limit: 3 }), ctx.db.one('posts', '1')]); await ctx.email.send({ to: 'a@b.c', subject: 's', text: 't' }); return [f.status, f.text, l.length, o.title, await ctx.db.one('posts', 'no')]");
  assert.deepEqual(r.value, [200, '{"embedding":[1,2,3]}', 3, 'one', null], JSON.stringify(r));
  assert.deepEqual(asked.map((a) => a.op).sort(), ['db.list', 'db.one', 'db.one', 'email.send', 'fetch']);
  const fetched = asked.find((a) => a.op === 'fetch').args;
  assert.deepEqual([fetched.url, fetched.init.method, fetched.init.body], ['https://api.example.com/x', 'POST', 'b']);
  assert.deepEqual(asked[0].auth.userId, 'u1');
  assert.deepEqual(asked[0].auth.roles, ['admin']);
});
await check('passes on what an op says', async () => {
  assert.match((await run("await ctx.fetch('https://evil.example/')")).error, /URL not in fetch allow-list: https:\/\/evil\.example\//);
  assert.equal((await run("try { await ctx.db.list('nope') } catch (e) { return e.message }")).value, 'Collection "nope" not found');
});
await check('tells of errors', async () => {
  const r = await run("console.log('seen'); throw new TypeError('bad')");
  assert.deepEqual([r.status, r.ok, r.error, r.logs], [200, false, 'bad', ['seen']]);
});
await check('ends what runs too long', async () => assert.match((await run('for (;;);', { timeoutMs: 100 })).error, /timed out after 100ms/));
await check('knows the least time', async () => assert.match((await run('for (;;);', { timeoutMs: 1 })).error, /timed out after 50ms/));
await check('needs an origin for ops', async () => {
  assert.match((await run("await ctx.db.one('posts', '1')", { mainOrigin: undefined })).error, /SANDBOX_RPC_TOKEN \+ SELF_URL/);
  assert.equal((await run('return 1', { mainOrigin: undefined, rpcToken: undefined })).value, 1);
});
await check('says that a token was refused', async () => assert.equal((await run("await ctx.db.one('posts', '1')", { rpcToken: 'wrong' })).ok, false));
await check('says that nothing listens there', async () => assert.equal((await run("await ctx.db.one('posts', '1')", { mainOrigin: 'http://127.0.0.1:9' })).ok, false));
await check('refuses a bad body', async () => {
  for (const body of ['{', '[]', '{"data":1}']) {
    const response = await fetch(`${executor}/run`, { method: 'POST', headers: { 'content-type': 'application/json' }, body });
    const answer = await response.json();
    assert.deepEqual([response.status, answer.ok, typeof answer.error], [400, false, 'string'], body);
  }
});
await check('says what is no JSON', async () => assert.equal((await run('const a = {}; a.a = a; return a')).ok, false));
await check('leaves nothing for the next', async () => {
  await run('globalThis.left = 1; Object.prototype.left = 1');
  assert.deepEqual((await run('return [typeof left, ({}).left === undefined]')).value, ['undefined', true]);
});
await check('twenty at once', async () => {
  const all = await Promise.all(Array.from({ length: 20 }, (_, n) => run('return [ctx.data.n, (await ctx.db.one("posts", "1")).title]', { data: { n } })));
  assert.deepEqual(all.map((r) => r.value), Array.from({ length: 20 }, (_, n) => [n, 'one']));
});
main.closeAllConnections();
main.close();
console.log(`${process.exitCode ? 'FAIL' : 'PASS'} executor for another main app: ${passed} passed`);
