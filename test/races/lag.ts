/** Distance to a server: every byte arrives late, in order. So what is read and what is written lie apart in time. */
import { startProxy } from '../support/tcp-proxy.ts'

/** The address to use in place of `url`; each way takes `lag_ms`. */
export async function withLag(url: string, lag_ms: number): Promise<{ url: string; stop(): Promise<void> }> {
  const far = new URL(url)
  const proxy = await startProxy(Number(far.port), undefined, undefined, () => lag_ms)
  far.hostname = '127.0.0.1'
  far.port = String(proxy.port)
  return { url: far.href, stop: proxy.stop }
}
