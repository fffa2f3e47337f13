/**
 * A proxy between a worker and the provider. It holds a request that a gate names, before it passes the request on or
 * after the provider has answered, until the gate opens. A caller that gives up before that gets no answer.
 */
import { createServer, type IncomingMessage, request } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { Test } from 'tap'

type When = 'before' | 'after'

export async function openGate(t: Test, target: string) {
  const gates = new Map<string, When>()
  /** intent → purchase or booking, as read from the provider's answers */
  const owners = new Map<string, string>()
  const reached = new Set<string>()
  const held = new Map<string, () => void>()
  const hold = (name: string) => {
    reached.add(name)
    return new Promise<void>((resolve) => held.set(name, resolve))
  }
  const server = createServer(async (incoming, outgoing) => {
    const body = await text(incoming)
    const [, id = '', step = ''] = /payment_intents\/(pi_\w+)\/?(\w*)/.exec(incoming.url ?? '') ?? []
    const form = new URLSearchParams(body)
    const named = form.get('metadata[purchase]') ?? form.get('metadata[booking]')
    const subject = owners.get(id) ?? named ?? owners.get(form.get('payment_intent') ?? '') ?? ''
    const verb = incoming.url?.startsWith('/v1/refunds')
      ? 'refund'
      : incoming.method === 'GET'
        ? 'find'
        : step || 'create'
    const gate = gates.get(`${verb} ${subject}`)
    if (gate === 'before') await hold(`${verb} ${subject}`)
    if (incoming.socket.destroyed) return
    const [status, answer] = await forward(target, incoming, body)
    const { id: intent, object } = JSON.parse(answer) as { id?: string; object?: string }
    if (intent !== undefined && object === 'payment_intent' && verb === 'create') owners.set(intent, subject)
    if (gate === 'after') await hold(`${verb} ${subject}`)
    outgoing.writeHead(status, { 'content-type': 'application/json' }).end(answer)
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    server.closeAllConnections()
    server.close()
  })
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    close: (verb: string, subject: string, when: When) => gates.set(`${verb} ${subject}`, when),
    reached: (verb: string, subject: string) => reached.has(`${verb} ${subject}`),
    /** Opens all gates, or the gates of this verb and subject. */
    open(verb?: string, subject?: string) {
      for (const name of [...gates.keys()]) {
        if (verb !== undefined && name !== `${verb} ${subject}`) continue
        gates.delete(name)
        held.get(name)?.()
      }
    },
  }
}

async function text(stream: IncomingMessage): Promise<string> {
  let all = ''
  for await (const chunk of stream.setEncoding('utf8')) all += chunk
  return all
}

const forward = (target: string, { method, url, headers }: IncomingMessage, body: string) =>
  new Promise<[number, string]>((resolve, reject) => {
    const options = method === undefined ? { headers } : { method, headers }
    const passed = request(new URL(url ?? '/', target), options, async (answer) =>
      resolve([answer.statusCode ?? 500, await text(answer)]),
    )
    passed.on('error', reject).end(body)
  })
