'use strict';
(() => {
  const fs = require('fs');
  const net = require('net');
  const vm = require('vm');
  const util = require('util');
  const inspector = require('inspector');
  const { createRequire } = require('module');
  const path = require('path');

  const session = new inspector.Session();
  session.connect();
  const slot = Symbol('sandbar');
  const hidden = { configurable: true, enumerable: false, writable: true };
  Object.defineProperty(globalThis, 'require', { ...hidden, value: createRequire(path.join(process.cwd(), 'repl')) });
  Object.defineProperty(globalThis, 'module', { ...hidden, value: module });
  Object.defineProperty(globalThis, 'exports', { ...hidden, value: exports });
  for (const name of require('module').builtinModules) {
    if (name.startsWith('_') || name.includes('/') || name in globalThis) continue;
    Object.defineProperty(globalThis, name, {
      configurable: true,
      enumerable: false,
      get() {
        const value = require(name);
        Object.defineProperty(globalThis, name, { ...hidden, value });
        return value;
      },
      set(value) {
        Object.defineProperty(globalThis, name, { ...hidden, value });
      },
    });
  }

  let count = 0;
  let interrupt = null;
  const interrupted = new Error('Interrupted');
  interrupted.stack = 'Interrupted';
  process.on('SIGINT', () => {
    if (interrupt) interrupt();
  });
  const printError = (error) => {
    let text;
    try {
      if (error === interrupted) text = 'Interrupted';
      else text = error instanceof Error && typeof error.stack === 'string' ? clean(error) : 'Uncaught ' + util.inspect(error);
    } catch {
      text = 'Uncaught (an error that cannot be shown)';
    }
    process.stderr.write(text + '\n');
  };
  const clean = (error) => {
    const driver = /^\s+at .*(node:internal|node:events|node:vm|node:inspector|\[eval|sandbar-driver)/;
    const kept = util.inspect(error).split('\n').filter((line) => !driver.test(line));
    return 'Uncaught ' + kept.join('\n');
  };
  process.on('uncaughtException', printError);
  process.on('unhandledRejection', printError);

  // The inspector gives the value as a remote object; this brings the object itself back.
  const fetch = (result) => {
    if ('objectId' in result) {
      let value;
      globalThis[slot] = (v) => { value = v; };
      globalThis.__sandbar_fetch = globalThis[slot];
      session.post('Runtime.callFunctionOn', {
        functionDeclaration: 'function (v) { const f = globalThis.__sandbar_fetch; delete globalThis.__sandbar_fetch; f(v); }',
        objectId: result.objectId,
        arguments: [{ objectId: result.objectId }],
      }, () => {});
      delete globalThis.__sandbar_fetch;
      delete globalThis[slot];
      session.post('Runtime.releaseObject', { objectId: result.objectId }, () => {});
      return value;
    }
    switch (result.unserializableValue) {
      case undefined: return result.value;
      case 'NaN': return NaN;
      case '-0': return -0;
      case 'Infinity': return Infinity;
      case '-Infinity': return -Infinity;
      default: return BigInt(result.unserializableValue.slice(0, -1));
    }
  };

  const evaluate = (code, done) => {
    count += 1;
    let ended = false;
    const finish = (error, value) => {
      if (ended) return;
      ended = true;
      interrupt = null;
      if (error) printError(error.thrown);
      else if (value !== undefined) {
        globalThis._ = value;
        let text;
        try { text = util.inspect(value); } catch { text = '(a value that cannot be shown)'; }
        process.stdout.write(text + '\n');
      }
      done();
    };
    interrupt = () => finish({ thrown: interrupted });
    const parameters = {
      expression: /^\s*\{[\s\S]*\}\s*$/.test(code) && parses('(' + code.trim() + '\n)') ? '(' + code.trim() + '\n)' : code,
      replMode: true,
      awaitPromise: false,
      objectGroup: 'sandbar',
      allowUnsafeEvalBlockedByCSP: true,
    };
    parameters.expression += '\n//# sourceURL=repl-' + count;
    globalThis.__sandbar_run = () => {
      delete globalThis.__sandbar_run;
      session.post('Runtime.evaluate', parameters, (failure, reply) => {
        if (failure) return finish({ thrown: new Error(failure.message) });
        if (reply.exceptionDetails) {
          const exception = reply.exceptionDetails.exception;
          const thrown = exception ? fetch(exception) : new Error(reply.exceptionDetails.text);
          return finish({ thrown });
        }
        finish(null, fetch(reply.result));
      });
    };
    try {
      // Only for the watchdog: SIGINT ends a loop that never returns.
      vm.runInThisContext('globalThis.__sandbar_run()', { breakOnSigint: true, filename: 'sandbar-driver' });
    } catch (error) {
      delete globalThis.__sandbar_run;
      finish({ thrown: error && error.code === 'ERR_SCRIPT_EXECUTION_INTERRUPTED' ? interrupted : error });
    }
  };
  const parses = (code) => {
    try { new vm.Script(code); return true; } catch { return false; }
  };

  let pending = Buffer.alloc(0);
  let busy = false;
  const pump = () => {
    if (busy || pending.length < 8) return;
    const size = Number(pending.toString('latin1', 0, 8));
    if (pending.length < 8 + size) return;
    const code = pending.toString('utf8', 8, 8 + size);
    pending = pending.subarray(8 + size);
    busy = true;
    evaluate(code, () => setImmediate(() => {
      busy = false;
      fs.writeSync(4, '.');
      pump();
    }));
  };
  const control = new net.Socket({ fd: 3, readable: true, writable: false });
  control.on('data', (data) => {
    pending = pending.length ? Buffer.concat([pending, data]) : data;
    pump();
  });
  control.on('end', () => process.exit(0));
})();
