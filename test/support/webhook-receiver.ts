/**
 * A receiver of webhooks. It verifies each delivery, answers as the test sets it, and records each delivery and whether
 * it accepted it.
 */
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { Webhook } from 'standardwebhooks'
import type { Test } from 'tap'
import type { Event } from '../../src/shared/outbox.ts'

interface Told extends Event {
  /** true if the receiver answered 2xx */
  taken: boolean
  /** indices of the secrets with which the signature verifies */
  good: number[]
  path: string
}

export async function startReceiver(t: Test) {
  const told: Told[] = []
  const secrets: string[] = []
  let answer: (event: Event, path: string) => number = () => 204
  const server = createServer(async (request, response) => {
    let body = ''
    for await (const chunk of request) body += chunk
    const headers = request.headers as Record<string, string>
    const verifies = (secret: string) => {
      try {
        return Boolean(new Webhook(secret).verify(body, headers))
      } catch {
        return false
      }
    }
    const event = JSON.parse(body) as Event
    const path = request.url ?? ''
    const status = answer(event, path)
    const good = secrets.flatMap((secret, n) => (verifies(secret) ? [n] : []))
    told.push({ ...event, taken: status >= 200 && status < 300, good, path })
    // With status 0 the receiver never answers.
    if (status > 0) response.writeHead(status, status === 302 ? { location: '/elsewhere' } : {}).end()
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    server.closeAllConnections()
    server.close()
  })
  const { port } = server.address() as AddressInfo
  return {
    port,
    url: (path: string) => `http://127.0.0.1:${port}${path}`,
    secrets,
    told,
    of: (path: string, resource: string) => told.filter((one) => one.path === path && one.resource === resource),
    /**
     * Returns the sequence numbers in order of arrival. A number that came twice in a row counts once, because its
     * sender's lease may have ended in between.
     */
    numbers(path: string, resource: string): number[] {
      const all = this.of(path, resource).map((one) => one.sequence)
      return all.filter((sequence, n) => sequence !== all[n - 1])
    },
    answers(next: (event: Event, path: string) => number) {
      answer = next
    },
  }
}
