/** Delays every byte to and from a server, in order, so that time passes between a read and the write that follows. */
import { startProxy } from '../support/tcp-proxy.ts'

/** Returns the address to use instead of `url`. Each direction takes `lag_ms`. */
export async function withLag(url: string, lag_ms: number): Promise<{ url: string; stop(): Promise<void> }> {
  const far = new URL(url)
  const proxy = await startProxy(Number(far.port), undefined, undefined, () => lag_ms)
  far.hostname = '127.0.0.1'
  far.port = String(proxy.port)
  return { url: far.href, stop: proxy.stop }
}
