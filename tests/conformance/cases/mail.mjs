// ctx.email and ctx.secrets. The server keeps mail in files here.
export default [
  { name: 'text', code: "return await ctx.email.send({ to: 'team@example.com', subject: 'Hello – 😀', text: 'line 1\\nline 2' })", value: true },
  { name: 'with HTML', code: "return await ctx.email.send({ to: 'team@example.com', subject: 's', text: 't', html: '<b>t</b>' })", value: true },
  { name: 'nobody', code: "try { await ctx.email.send({ subject: 's', text: 't' }); return 1 } catch (e) { return e instanceof Error }", value: true },
  { name: 'from somebody else', code: "try { await ctx.email.send({ to: 'team@example.com', from: 'boss@example.com', subject: 's', text: 't' }); return 1 } catch (e) { return /^email.send: from: .* is not allowed/.test(e.message) }", value: true },
  { name: 'what mail does not know', code: "try { await ctx.email.send({ to: 'team@example.com', bcc: 'b@example.com', subject: 's', text: 't' }); return 1 } catch (e) { return e.message.includes('bcc: is not known') }", value: true },
  { name: 'no address', code: "try { await ctx.email.send({ to: 'not an address', subject: 's', text: 't' }); return 1 } catch (e) { return e instanceof Error }", value: true },
  { name: 'a header within a subject', code: "try { await ctx.email.send({ to: 'team@example.com', subject: 's\\r\\nBcc: all@example.com', text: 't' }); return 1 } catch (e) { return e instanceof Error }", value: true },
  { name: 'a secret', secrets: { token: 'conformance-secret-value' }, code: "return (await ctx.secrets.get('token')).length", value: 24, needs: 'secrets' },
  { name: 'a secret in a log', secrets: { token: 'conformance-secret-value' }, code: "console.log('it is ' + await ctx.secrets.get('token'))", absent: true, checkLogs: (logs) => logs.length === 1 && !logs[0].includes('conformance-secret-value'), needs: 'secrets' },
  { name: 'no such secret', code: "try { return await ctx.secrets.get('nothing') } catch (e) { return null }", value: null, needs: 'secrets' },
];
