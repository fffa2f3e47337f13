/** src/shared/redis.ts: a subscription is renewed at each reconnect, and a failed one is reported. */
import { EventEmitter } from 'node:events'
import type { Redis } from 'ioredis'
import t from 'tap'
import { subscribe } from '../../src/shared/redis.ts'

/** Returns a connection that records its subscriptions. `failure`: the answer to a SUBSCRIBE. */
function fakeRedis(status: 'ready' | 'connecting') {
  const channels: string[] = []
  const fake = Object.assign(new EventEmitter(), {
    status,
    failure: undefined as Error | undefined,
    async subscribe(channel: string) {
      channels.push(channel)
      if (fake.failure) throw fake.failure
      return 1
    },
  })
  return { fake, redis: fake as unknown as Redis, channels }
}

t.test('a connection that is up: subscribed at once, and again at every reconnect', (t) => {
  const { fake, redis, channels } = fakeRedis('ready')
  subscribe(redis, 'news', () => {}, t.error)
  t.same(channels, ['news'])
  fake.emit('ready')
  fake.emit('ready')
  t.same(channels, ['news', 'news', 'news'])
  t.end()
})

t.test('a connection that is being made: subscribed when it is up', (t) => {
  const { fake, redis, channels } = fakeRedis('connecting')
  subscribe(redis, 'news', () => {}, t.error)
  t.same(channels, [])
  fake.emit('ready')
  t.same(channels, ['news'])
  t.end()
})

t.test('two channels on one connection: each reader gets its own messages', (t) => {
  const { fake, redis } = fakeRedis('ready')
  const [first, second]: [string[], string[]] = [[], []]
  subscribe(redis, 'one', (message) => first.push(message), t.error)
  subscribe(redis, 'two', (message) => second.push(message), t.error)
  fake.emit('message', 'one', 'a')
  fake.emit('message', 'two', 'b')
  fake.emit('message', 'three', 'c')
  t.same([first, second], [['a'], ['b']])
  t.end()
})

t.test('a subscription that fails is reported, and tried again at the next reconnect', async (t) => {
  const { fake, redis, channels } = fakeRedis('ready')
  fake.failure = new Error('connection reset')
  const failures: unknown[] = []
  subscribe(
    redis,
    'news',
    () => {},
    (error) => failures.push(error),
  )
  await new Promise(setImmediate)
  t.same(failures, [fake.failure])
  fake.failure = undefined
  fake.emit('ready')
  await new Promise(setImmediate)
  t.equal(failures.length, 1)
  t.equal(channels.length, 2)
})
