for (let count = 1; ; count++) {
  console.log(`looked at the harbour ${count} times`);
  await Bun.sleep(200);
}
