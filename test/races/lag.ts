/** Distance to a server: every byte arrives late, in order. So what is read and what is written lie apart in time. */
import { once } from 'node:events'
import { connect, createServer, type Socket } from 'node:net'

/** The address to use in place of `url`; each way takes `lag_ms`. */
export async function withLag(url: string, lag_ms: number): Promise<{ url: string; stop(): Promise<void> }> {
  const { hostname: host, port } = new URL(url)
  const sockets = new Set<Socket>()
  const server = createServer({ noDelay: true }, (down) => {
    const up = connect({ host, port: Number(port), noDelay: true })
    for (const [from, to] of [
      [down, up],
      [up, down],
    ] as const) {
      sockets.add(from)
      from.on('data', (chunk) => setTimeout(() => to.write(chunk), lag_ms))
      from.on('close', () => {
        sockets.delete(from)
        setTimeout(() => to.destroy(), lag_ms)
      })
      from.on('error', () => from.destroy())
    }
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const far = new URL(url)
  far.hostname = '127.0.0.1'
  far.port = String((server.address() as { port: number }).port)
  return {
    url: far.href,
    async stop() {
      for (const socket of sockets) socket.destroy()
      server.close()
      await once(server, 'close')
    },
  }
}
