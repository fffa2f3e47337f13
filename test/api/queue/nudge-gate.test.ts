/** src/api/queue/nudge-gate.ts: a nudge of a hot queue is held back until its worker leaves it or falls silent. */
import { EventEmitter } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Redis } from 'ioredis'
import pino from 'pino'
import t from 'tap'
import { createNudgeGate } from '../../../src/api/queue/nudge-gate.ts'
import { formatHotQueue, hotQueueChannel } from '../../../src/shared/redis.ts'

/** A gate, its worker's announcements, and the nudges that it has sent. */
function openGate() {
  const subscriber = Object.assign(new EventEmitter(), { status: 'ready', subscribe: async () => 1 })
  const sent: string[] = []
  const gate = createNudgeGate({
    subscriber: subscriber as unknown as Redis,
    redis_prefix: 'test:',
    nudge: (resources) => void sent.push(...resources),
    log: pino({ enabled: false }),
  })
  const announce = (resource: string, hot: boolean) =>
    subscriber.emit('message', hotQueueChannel('test:'), formatHotQueue(resource, hot))
  return { gate, sent, announce }
}

t.test('a nudge of another queue is sent at once', async (t) => {
  const { gate, sent, announce } = openGate()
  announce('product:hot', true)
  gate.nudge(['product:hot', 'product:cold'])
  t.same(sent, ['product:cold'])
  gate.close()
})

t.test('a held nudge is sent when the worker leaves, once for any number of rows', async (t) => {
  const { gate, sent, announce } = openGate()
  announce('product:hot', true)
  gate.nudge(['product:hot'])
  gate.nudge(['product:hot'])
  announce('product:hot', true)
  t.same(sent, [])
  announce('product:hot', false)
  t.same(sent, ['product:hot'])
  gate.nudge(['product:hot'])
  t.same(sent, ['product:hot', 'product:hot'], 'from then on as others are')
})

t.test('a hot queue without a new row is not nudged when its worker leaves', async (t) => {
  const { sent, announce } = openGate()
  announce('product:hot', true)
  announce('product:hot', false)
  t.same(sent, [])
})

t.test('a held nudge is sent when the worker has died', async (t) => {
  const { gate, sent, announce } = openGate()
  announce('product:hot', true)
  gate.nudge(['product:hot'])
  while (sent.length === 0) await sleep(20)
  t.same(sent, ['product:hot'])
})

t.test('what is held back at the close is sent, and nothing is held back later', async (t) => {
  const { gate, sent, announce } = openGate()
  announce('product:hot', true)
  gate.nudge(['product:hot'])
  gate.close()
  t.same(sent, ['product:hot'])
  announce('product:hot', true)
  gate.nudge(['product:hot'])
  t.same(sent, ['product:hot', 'product:hot'])
})
