// An executor of the wire of remote-http that we did not derive from ours: Node alone, one worker thread for each call.
//   POST /run     {code, data, user, timeoutMs, mainOrigin, rpcToken} -> {ok, value?, logs[], error?}
//   GET  /health  -> ok
// It calls back to {mainOrigin}/api/_internal/sandbox-rpc with {op, args, auth} and the rpcToken that it was given.
import http from 'node:http';
import { Worker, isMainThread, parentPort, workerData } from 'node:worker_threads';

const BODY_BYTES_MAX = 16 << 20;

if (isMainThread) {
  const server = http.createServer(async (request, response) => {
    const send = (status, body) => response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body));
    if (request.method === 'GET' && request.url === '/health') return response.end('ok');
    if (request.method !== 'POST' || request.url !== '/run') return send(404, { ok: false, logs: [], error: 'not found' });
    let job;
    try {
      const chunks = [];
      let bytes = 0;
      for await (const chunk of request) {
        bytes += chunk.length;
        if (bytes > BODY_BYTES_MAX) throw new Error('the body is too large');
        chunks.push(chunk);
      }
      job = JSON.parse(Buffer.concat(chunks).toString());
      if (typeof job?.code !== 'string') throw new Error('code has to be text');
    } catch (error) {
      return send(400, { ok: false, logs: [], error: `bad request: ${error.message}` });
    }
    send(200, await run(job));
  });
  server.listen(Number(process.env.PORT ?? 8790), process.env.HOST ?? '127.0.0.1', () => console.log(`listening on ${server.address().port}`));
} else {
  work(workerData);
}

function run(job) {
  const timeoutMs = Math.min(60000, Math.max(50, Number(job.timeoutMs) || 5000));
  const logs = [];
  return new Promise((done) => {
    const worker = new Worker(new URL(import.meta.url), { workerData: job, env: {}, resourceLimits: { maxOldGenerationSizeMb: 64 } });
    const end = (result) => {
      clearTimeout(timer);
      worker.terminate();
      done({ ...result, logs });
    };
    const timer = setTimeout(() => end({ ok: false, error: `timed out after ${timeoutMs}ms` }), timeoutMs);
    worker.on('message', (message) => {
      if (message.type === 'log') logs.push(message.line);
      else if (message.type === 'rpc') answer(job, message).then((reply) => worker.postMessage(reply));
      else if (message.type === 'result') end(message.result);
    });
    worker.on('error', (error) => end({ ok: false, error: error.message }));
    worker.on('exit', () => end({ ok: false, error: 'the worker ended' }));
  });
}

async function answer({ mainOrigin, rpcToken, user }, { requestId, op, args }) {
  try {
    if (!mainOrigin || !rpcToken) throw new Error('ctx.* host bridges require SANDBOX_RPC_TOKEN + SELF_URL');
    const auth = { userId: user?.id ?? null, email: user?.email ?? null, roles: user?.roles ?? [], tenantId: user?.tenantId };
    const response = await fetch(`${mainOrigin}/api/_internal/sandbox-rpc`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', authorization: `Bearer ${rpcToken}` },
      body: JSON.stringify({ op, args, auth }),
    });
    if (response.status !== 200) throw new Error(`rpc http ${response.status}: ${(await response.text()).slice(0, 200)}`);
    return { type: 'rpc-reply', requestId, ...(await response.json()) };
  } catch (error) {
    return { type: 'rpc-reply', requestId, ok: false, error: error.message };
  }
}

async function work({ code, data, user }) {
  const port = parentPort;
  const { parse, stringify } = JSON;
  const pending = new Map();
  let last = 0;
  const rpc = (op, args) =>
    new Promise((resolve, reject) => {
      pending.set(++last, { resolve, reject });
      port.postMessage({ type: 'rpc', requestId: last, op, args: parse(stringify(args)) });
    });
  port.on('message', ({ requestId, ok, value, error }) => {
    const waiter = pending.get(requestId);
    pending.delete(requestId);
    if (ok) waiter?.resolve(value);
    else waiter?.reject(new Error(error));
  });
  const text = (value) => {
    if (typeof value === 'string') return value;
    try {
      return stringify(value) ?? String(value);
    } catch {
      return '[unserializable]';
    }
  };
  const say = (...args) => port.postMessage({ type: 'log', line: args.map(text).join(' ') });
  globalThis.console = { log: say, debug: say, info: say, warn: say, error: say };
  const ctx = {
    data,
    user,
    fetch: (url, init) => rpc('fetch', { url: String(url), init }),
    db: { list: (slug, query) => rpc('db.list', { slug, query }), one: (slug, id) => rpc('db.one', { slug, id }) },
    email: { send: (message) => rpc('email.send', message) },
  };
  const done = (result) => port.postMessage({ type: 'result', result });
  process.on('unhandledRejection', () => {});
  process.on('uncaughtException', () => {});
  const AsyncFunction = (async () => {}).constructor;
  const names = ['fetch', 'process', 'require', 'module', 'WebSocket', 'Buffer', 'global'];
  for (const name of names) delete globalThis[name];
  let value;
  try {
    value = await new AsyncFunction('ctx', code)(ctx);
  } catch (error) {
    let message = '[unprintable]';
    try {
      message = String(error?.message ?? error);
    } catch {}
    return done({ ok: false, error: message });
  }
  try {
    const json = stringify(value);
    done(json === undefined ? { ok: true } : { ok: true, value: parse(json) });
  } catch (error) {
    done({ ok: false, error: `unserializable: ${error.message}` });
  }
}
