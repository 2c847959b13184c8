// Timers: one list for all of them, and one `sleep` of the host's for the one that is due first. A sleep that is not needed any
// more is left to end; what it then finds due is done, and the next one is asked for. One callback for each answer, so that all
// that it leaves to do comes before the next one's.
(host, define, complain) => {
  "use strict";
  const { apply } = Reflect;
  const { create } = Object;
  const { delete: mapDelete, get: mapGet, set: mapSet } = Map.prototype;
  const ErrorHere = Error, TypeErrorHere = TypeError, NumberHere = Number;
  const { ask, now } = host;
  const WAIT_MAX = 2147483647;

  // Those that wait, as a heap: by when they are due, and then in the order in which they were set.
  const heap = create(null);
  let size = 0;
  const isBefore = (one, other) => one.due < other.due || (one.due === other.due && one.turn < other.turn);
  const put = (timer, at) => {
    heap[at] = timer;
    timer.at = at;
  };
  const rise = (timer, at) => {
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!isBefore(timer, heap[parent])) break;
      put(heap[parent], at);
      at = parent;
    }
    put(timer, at);
  };
  const sink = (timer, at) => {
    for (;;) {
      let child = 2 * at + 1;
      if (child + 1 < size && isBefore(heap[child + 1], heap[child])) child += 1;
      if (child >= size || !isBefore(heap[child], timer)) break;
      put(heap[child], at);
      at = child;
    }
    put(timer, at);
  };
  const remove = (timer) => {
    const { at } = timer;
    const last = heap[--size];
    heap[size] = undefined;
    timer.at = -1;
    if (last === timer) return;
    if (at > 0 && isBefore(last, heap[(at - 1) >> 1])) rise(last, at);
    else sink(last, at);
  };

  // It never goes back, and it goes on without the clock, which stands in some replays.
  let reached = 0;
  const time = () => {
    const read = now();
    if (read > reached) reached = read;
    return reached;
  };

  // Sleeps under way, the one that was asked for last on top: it ends before all others.
  let top = null;
  const arm = () => {
    if (size === 0 || (top !== null && top.due <= heap[0].due)) return;
    const sleep = create(null);
    sleep.due = heap[0].due;
    sleep.below = top;
    sleep.isOver = false;
    top = sleep;
    const args = create(null);
    const left = sleep.due - time();
    args.ms = left > 0 ? left : 0;
    (async () => {
      let isRefused = false;
      try {
        await ask("sleep", args);
      } catch {
        isRefused = true;
      }
      sleep.isOver = true;
      while (top !== null && top.isOver) top = top.below;
      if (isRefused) return complain(new ErrorHere("too many timers in one run"));
      if (sleep.due > reached) reached = sleep.due;
      if (size > 0 && heap[0].due <= reached) fire(heap[0]);
      plan();
    })();
  };
  // Later, when all timers are known that are set at once.
  let isPlanned = false;
  const plan = () => {
    if (isPlanned) return;
    isPlanned = true;
    (async () => {
      await undefined;
      isPlanned = false;
      arm();
    })();
  };

  const timers = new Map();
  let lastId = 0, lastTurn = 0;
  const add = (timer) => {
    timer.due = time() + timer.wait;
    timer.turn = ++lastTurn;
    rise(timer, size++);
    plan();
  };
  const fire = (timer) => {
    remove(timer);
    if (!timer.isRepeated) apply(mapDelete, timers, [timer.id]);
    try {
      apply(timer.callback, undefined, timer.values);
    } catch (error) {
      complain(error);
    }
    // It may have been cleared meanwhile.
    if (timer.isRepeated && apply(mapGet, timers, [timer.id]) !== undefined) add(timer);
  };
  const set = (isRepeated) => (callback, wait, ...values) => {
    if (typeof callback !== "function") throw new TypeErrorHere("a timer needs a function");
    const ms = NumberHere(wait);
    const timer = create(null);
    timer.id = ++lastId;
    timer.callback = callback;
    timer.values = values;
    timer.isRepeated = isRepeated;
    timer.wait = ms >= 1 ? (ms < WAIT_MAX ? ms - (ms % 1) : WAIT_MAX) : isRepeated ? 1 : 0;
    apply(mapSet, timers, [timer.id, timer]);
    add(timer);
    return timer.id;
  };
  const clear = (id) => {
    const timer = apply(mapGet, timers, [id]);
    if (timer === undefined) return;
    apply(mapDelete, timers, [id]);
    if (timer.at >= 0) remove(timer);
  };
  define("setTimeout", set(false));
  define("setInterval", set(true));
  define("clearTimeout", clear);
  define("clearInterval", clear);
}
