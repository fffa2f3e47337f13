/** Blocks the event loop of a test. */
const NEVER_WOKEN = new Int32Array(new SharedArrayBuffer(4))

/**
 * Blocks the event loop of this process, as a long computation does. It sleeps instead of computing, because the servers
 * of other tests need the processor.
 */
export function blockEventLoop(ms: number): void {
  Atomics.wait(NEVER_WOKEN, 0, 0, ms)
}
