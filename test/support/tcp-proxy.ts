/** A TCP proxy of one test's own that pauses, mutes, cuts or delays the connections that it passes on. */
import { once } from 'node:events'
import { connect, createServer, type Socket } from 'node:net'

export interface Link {
  /** Stop passing on what the server answers. */
  mute(): void
  /** Passes nothing on, either way, until it goes on: nothing is lost. */
  pause(): void
  goOn(): void
  cut(): void
  /** cuts it as a peer that died does: what was under way fails with ECONNRESET */
  reset(): void
}

/**
 * Passes connections on to the port, which a function may change for later ones. `onRequest` sees each chunk before the
 * server does, `onAnswer` before the client does; both may mute or cut the link. Each way takes `lag_ms`, as it is when
 * a chunk comes; chunks stay in order.
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

/** Writes in order, each chunk as late as it shall be; what comes while others wait waits behind them. */
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
