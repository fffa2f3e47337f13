/** A TCP proxy of one test, which can pause, mute, cut or delay its connections. */
import { once } from 'node:events'
import { connect, createServer, type Socket } from 'node:net'

export interface Link {
  /** Stops passing on the server's answers. */
  mute(): void
  /** Passes nothing on in either direction until it is resumed. No byte is lost. */
  pause(): void
  goOn(): void
  cut(): void
  /** cuts the connection as a dead peer would: pending requests fail with ECONNRESET */
  reset(): void
}

/**
 * Starts a proxy that passes connections on to the port; if `port` is a function, it is called for each connection.
 * `onRequest` gets each chunk before the server does, and `onAnswer` before the client does; both may mute or cut the
 * link. `lag_ms` delays each direction and is read when a chunk arrives; chunks stay in order.
 */
export async function startProxy(
  port: number | (() => number),
  onRequest?: (link: Link, chunk: string) => void,
  onAnswer?: (link: Link) => void,
  lag_ms: () => number = () => 0,
) {
  const links = new Set<Link>()
  const sockets = new Set<Socket>()
  const server = createServer({ noDelay: true }, (down) => {
    const up = connect({ port: typeof port === 'number' ? port : port(), host: '127.0.0.1', noDelay: true })
    let muted = false
    const link: Link = {
      mute: () => {
        muted = true
      },
      pause: () => {
        down.pause()
        up.pause()
      },
      goOn: () => {
        down.resume()
        up.resume()
      },
      cut: () => {
        down.destroy()
        up.destroy()
        links.delete(link)
      },
      reset: () => {
        down.resetAndDestroy()
        link.cut()
      },
    }
    links.add(link)
    for (const socket of [down, up]) {
      sockets.add(socket)
      socket.on('error', link.cut)
      socket.on('close', () => {
        link.cut()
        sockets.delete(socket)
      })
    }
    const ask = late(up, lag_ms)
    const answer = late(down, lag_ms)
    down.on('data', (chunk) => {
      onRequest?.(link, String(chunk))
      ask(chunk)
    })
    up.on('data', (chunk) => {
      onAnswer?.(link)
      if (!muted) answer(chunk)
    })
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    port: (server.address() as { port: number }).port,
    links,
    async stop() {
      for (const socket of sockets) socket.destroy()
      server.close()
      await once(server, 'close')
    },
  }
}

/**
 * Returns a function that writes each chunk after its delay. Chunks stay in order: one that arrives while others wait
 * comes after them.
 */
function late(to: Socket, lag_ms: () => number): (chunk: Buffer) => void {
  const waiting: { chunk: Buffer; due: number }[] = []
  const write = (chunk: Buffer) => {
    if (!to.destroyed) to.write(chunk)
  }
  const pass = () => {
    const now = performance.now()
    for (let first = waiting[0]; first && first.due <= now + 1; first = waiting[0]) {
      waiting.shift()
      write(first.chunk)
    }
    if (waiting[0]) setTimeout(pass, waiting[0].due - now)
  }
  return (chunk) => {
    const lag = lag_ms()
    if (lag === 0 && waiting.length === 0) return write(chunk)
    waiting.push({ chunk, due: performance.now() + lag })
    if (waiting.length === 1) setTimeout(pass, lag)
  }
}
