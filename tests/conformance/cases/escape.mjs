// What trusted code reaches from within a worker of Bun when it goes around what was taken away: its sandbox, and nothing of the
// machine's. `ctx.data.canary` is a file of the machine, `ctx.data.server` the server. Nothing here does harm where a wall is missing:
// files are opened and not written, and only the process of the script itself is ended.
import { readFileSync } from 'node:fs';

const only = ['bun-worker'];
// Modules of Node want some globals back.
const node = `globalThis.process = (await import('node:process')).default;
globalThis.setImmediate = (f, ...a) => setTimeout(f, 0, ...a);
const fs = await import('node:fs');
const read = (path) => { try { return fs.readFileSync(path, 'utf8') } catch (e) { return e.code } };
const pids = () => fs.readdirSync('/proc').filter((name) => /^\\d+$/.test(name));
const ask = async (url, init) => { try { return (await globalThis.Bun.fetch(url, init)).status } catch (e) { return e.code ?? e.name } };
`;
const canary = () => readFileSync(process.env.CANARY_FILE, 'utf8').trim();
const isHidden = (found) => !JSON.stringify(found).includes(canary());
export default [
  { name: 'it does import', only, code: `${node} return fs.readdirSync('/opt/program').sort()`, value: ['bun', 'ctx.js', 'pool.js', 'worker.js'] },
  { name: 'a file of the machine', only, code: `${node} return read(ctx.data.canary)`, value: 'ENOENT' },
  { name: 'a file of the machine, by Bun', only, code: `${node} try { return await (await globalThis.Bun.fetch('file://' + ctx.data.canary)).text() } catch (e) { return 'none' }`, value: 'none' },
  { name: 'by way of other processes', only, code: `${node} return pids().map((pid) => ['root', 'cwd'].map((way) => read('/proc/' + pid + '/' + way + ctx.data.canary)))`, check: isHidden },
  { name: 'by links and dots', only, code: `${node} return ['/../../..', '/proc/self/root', '/proc/self/root/../..', '/tmp/../..'].map((way) => read(way + ctx.data.canary))`, check: isHidden },
  { name: 'what is mounted', only, code: `${node} return read('/proc/self/mountinfo').split('\\n').map((line) => line.split(' ')).filter((f) => f.length > 5).filter((f) => !/^(\\/|\\/proc.*|\\/dev.*|\\/tmp)$/.test(f[4]) && !/(^|,)ro(,|$)/.test(f[5])).map((f) => f[4])`, value: [] },
  { name: 'users of the machine', only, code: `${node} return read('/etc/shadow')`, check: (text) => text !== readFileSync('/etc/shadow', 'utf8') && text.includes('root:*:') },
  { name: 'processes of the machine', only, code: `${node} return pids().map((pid) => read('/proc/' + pid + '/cmdline')).join(' ')`, check: (text) => text.includes('pool.js') && !/serve|run\.mjs/.test(text) },
  { name: 'the environment of the server', only, code: `${node} return [Object.keys(process.env), ...pids().map((pid) => read('/proc/' + pid + '/environ'))]`, check: (found) => !/SANDBAR_|BOOTSTRAP|CANARY/.test(JSON.stringify(found)) },
  { name: 'root is nobody outside', only, code: `${node} return read('/proc/self/uid_map').trim().split(/\\s+/)`, check: ([inside, outside]) => inside === '0' && Number(outside) > 0 },
  { name: 'the walls of sandboxes are there', only, code: `${node} const status = read('/proc/self/status'); return [/NoNewPrivs:\\s*1/, /Seccomp:\\s*2/].map((wall) => wall.test(status))`, value: [true, true] },
  { name: 'the server by the network', only, code: `${node} return await ask(ctx.data.server + '/readyz')`, check: (found) => typeof found === 'string' },
  { name: 'others by the network', only, code: `${node} return [await ask(ctx.data.web + '/hello'), await ask('http://1.1.1.1/'), await ask('http://example.com/')]`, check: (found) => found.every((one) => typeof one === 'string') },
  { name: 'sockets of the agent', only, code: `${node} return (await Promise.all(['/run/procd.sock', '/procd.sock', '/var/run/docker.sock'].map((unix) => ask('http://procd/v1/info', { unix }))))`, check: (found) => found.every((one) => typeof one === 'string') },
  { name: 'what is not its own to change', only, code: `${node} return ['/opt/program/bun', '/usr/bin/env', '/usr/bin/dash', '/proc/sys/kernel/hostname'].filter((path) => { try { fs.closeSync(fs.openSync(path, 'r+')); return true } catch { return false } })`, value: [] },
  { name: 'what it stands on', only, code: `${node} return read('/proc/1/cmdline').split('\\0')[0]`, value: 'procd' },
  { name: 'the pool itself', only, serial: true, code: `${node} if (!read('/proc/self/cmdline').includes('pool.js')) return; process.kill(process.pid, 9); await new Promise((r) => setTimeout(r, 3000))`, fails: 'internal' },
  { name: 'after that there is a new one', only, serial: true, code: 'return 1', value: 1 },
  { name: 'who is not trusted', only, spec: { authorKind: 'tenant' }, provider: 'quickjs', code: 'return [typeof globalThis.Bun, typeof Intl]', value: ['undefined', 'undefined'] },
];
