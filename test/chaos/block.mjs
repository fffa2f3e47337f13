/**
 * Loaded into a process of the fleet (NODE_OPTIONS=--import=…): at SIGUSR2 it blocks the event loop for TEST_BLOCK_MS.
 */
process.on('SIGUSR2', () => {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, Number(process.env.TEST_BLOCK_MS))
})
