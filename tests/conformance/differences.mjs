// Where a provider is allowed to answer otherwise, and why. The suite prints what it makes use of.

// By case and profile: without `instead` the case is not run there, else it is with these expectations.
export const differences = {
  'values/nested 150 deep': { 'node-executor': { why: 'the result of an executor is passed on as deep as it is' } },
  'context/who calls': { 'node-executor': { why: 'the wire to executors names the tenant, and what they make of that is theirs', instead: { value: ['email', 'id', 'roles', 'tenantId'] } } },
  'fetch/bytes that are posted': { 'node-executor': { why: 'an executor of others sends bytes in a form of its own' } },
  'limits/a promise that never settles': {
    'node-executor': { why: 'Node does not say when nothing is left to wait for: such a script ends by its time', instead: { error: 'timed out after 1000ms' } },
  },
};

// By profile: what cases may need, and why it is not there.
export const lacks = {
  quickjs: {},
  'bun-worker': {},
  'sandbar-executor': { determinism: 'the wire to executors carries no clock and no seed' },
  'node-executor': { determinism: 'the wire to executors carries no clock and no seed', secrets: 'executors of others know no ctx.secrets', 'errors in logs': 'executors of others print errors and big integers as JSON has them' },
};
