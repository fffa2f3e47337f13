/**
 * Wrong command lines: every command has a short usage, refuses an argument that it cannot read with one line and exit
 * code 2 before it starts or downloads anything, and says where it looked for an address.
 */
import { spawn } from 'node:child_process'
import { chmodSync, cpSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import t, { type Test } from 'tap'
import { LONGEST_FAULT_S } from '../../load/chaos-options.mjs'
import { ROOT } from '../../ops/dev/install.mjs'
import { plan, WITHOUT_KILLS } from '../chaos/nemesis.ts'
import { fromBundle } from '../support/environment.ts'

const scripts: Record<string, string> = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')).scripts
/** Scripts that read only the environment, and scripts that consist of other commands. */
const OTHERS = ['api', 'worker', 'check', 'postinstall', 'races:guards', 'chaos:guards']
const commands = Object.keys(scripts).filter((name) => !OTHERS.includes(name))

/** Runs `npm run NAME -- ARGS` without npm, with an empty environment and no running `npm start`. */
async function run(t: Test, name: string, args: readonly string[] = [], env: Record<string, string> = {}, cwd = ROOT) {
  const { PATH = '', HOME = '' } = process.env
  const line = name.startsWith('node ') ? name : (scripts[name]?.replace(/^exec /, '') ?? '')
  const [option, file = '', ...rest] = line.split(' ').slice(1)
  const bundled = option === '--import=tsx' && cwd === ROOT
  const words = bundled ? [...fromBundle(file), ...rest] : line.split(' ').slice(1)
  const child = spawn(process.execPath, [...words, ...args], {
    cwd,
    env: { PATH, HOME, HOLDFAST_DATA_DIR: join(t.testdirName, 'none'), ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  t.teardown(() => void child.kill('SIGKILL'))
  const said = { out: '', err: '' }
  child.stdout.setEncoding('utf8').on('data', (chunk: string) => {
    said.out += chunk
  })
  child.stderr.setEncoding('utf8').on('data', (chunk: string) => {
    said.err += chunk
  })
  const code = await new Promise<number | null>((resolve) => child.once('close', resolve))
  return { code, ...said }
}

// The file runs about sixty commands, and many load TypeScript to print one line.
t.setTimeout(400_000)

/** Most commands at a time: more would only be slower. */
const AT_ONCE = 4

async function each<T>(all: readonly T[], body: (one: T) => Promise<void>) {
  const rest = [...all]
  const lane = async () => {
    for (let one = rest.shift(); one !== undefined; one = rest.shift()) await body(one)
  }
  await Promise.all(Array.from({ length: AT_ONCE }, lane))
}

type Case = readonly [name: string, args: readonly string[], says: RegExp, env?: Record<string, string>]

async function refused(t: Test, [name, args, says, env]: Case, cwd?: string) {
  const { code, out, err } = await run(t, name, args, env, cwd)
  const what = [name, ...args, ...Object.values(env ?? {})].join(' ')
  t.equal(code, 2, `${what}: exit code 2`)
  t.match(err, says, what)
  t.match(err, /^[^\n]+\n$/, `${what}: one line`)
  t.equal(out, '', `${what}: nothing was begun`)
}

t.test('--help: a short usage; wrong option: one line and exit code 2', async (t) => {
  await each(commands, async (name) => {
    const { code, out, err } = await run(t, name, ['--help'])
    t.equal(code, 0, `${name} --help`)
    t.match(out, /^npm (run )?\S+/, `${name} --help says how it is called`)
    t.ok(out.split('\n').length < 20, `${name} --help is short`)
    t.equal(err, '')
    // `npm run load` leaves unknown options to the script, so it first refuses the missing script.
    await refused(t, [name, ['--nonsense'], /nonsense|say which/])
  })
  const cases: Case[] = [
    ['start', ['wroker=2'], /cannot read "wroker=2": say NAME=COUNT/],
    ['test', ['test/nothing.test.ts'], /there is no test\/nothing\.test\.ts/],
    ['bench', ['nothing'], /no benchmark of nothing; say one of purchases, locks/],
    ['bench', ['growth', '--parts=nothing'], /--parts takes workers, .* not nothing/],
    ['bench', ['locks', '--runs=many'], /--runs takes a whole number from 1 to 9999, not "many"/],
    ['bench', ['--products=1,x'], /--products takes a whole number .* not "x"/],
    ['bench', ['bookings', 'twice'], /cannot read "twice"/],
    ['bench', ['versions', '--clients'], /--clients <value>' argument missing/],
    ['histories', ['--runs=-1'], /--runs takes a whole number/],
    ['lab', ['nothing'], /there is no race "nothing"; say which: inventory, /],
    ['lab', ['inventory', '--url=nowhere'], /--url must be a URL/],
    ['load', ['steady', '--workers=none'], /--workers takes a whole number/],
    ['chaos', ['--seed=x'], /--seed takes a whole number/],
    ['chaos', ['--minutes=1', '--seconds=60'], /not both/],
  ]
  await each(cases, (one) => refused(t, one))
})

t.test('invalid or missing address: one line and exit code 2', async (t) => {
  const seed = 'node --import=tsx ops/commands/seed.ts'
  const postgres = /DATABASE_URL must be a URL that starts with postgres:\/\/ or postgresql:\/\/$/m
  const redis = /REDIS_URL must be a URL that starts with redis:\/\/ or rediss:\/\/$/m
  const several = 'postgres://u:p@127.0.0.1:9,127.0.0.2:9/holdfast'
  const cases = [
    ...['verify', 'migrate', seed].map((name) => [
      name,
      [],
      /DATABASE_URL is not set, and no npm start is running here/,
    ]),
    ...['start', 'test', 'verify', 'migrate', 'bench', 'chaos', 'load', seed].flatMap((name) => {
      const args = name === 'load' ? ['steady', '--start'] : []
      const wrong =
        name === 'verify' || name === 'migrate' ? ['notaurl', 'mysql://root:secret@127.0.0.1/holdfast'] : ['mysql://h/']
      return [
        ...wrong.map((DATABASE_URL) => [name, args, postgres, { DATABASE_URL }]),
        ...(name === 'verify' || name === 'migrate'
          ? []
          : [[name, args, redis, { DATABASE_URL: several, REDIS_URL: '127.0.0.1' }]]),
      ]
    }),
    ['sandbox', [], /SANDBOX_URL must be a URL/, { SANDBOX_URL: 'nowhere' }],
    ['start', [], /PORT must be from 1 to 65535/, { PORT: '99999' }],
  ] as Case[]
  await each(cases, (one) => refused(t, one))
})

t.test('no server answers: the cause in one line', async (t) => {
  await each(['verify', 'migrate', 'bench'], async (name) => {
    const { code, err } = await run(t, name, [], { DATABASE_URL: 'postgres://u:p@localhost:9/holdfast' })
    t.equal(code, 1, name)
    t.match(err, new RegExp(`^${name}: .*ECONNREFUSED.*\n$`))
  })
})

t.test('chaos too short for a fault: refused with the shortest length, in which every seed has a fault', async (t) => {
  await refused(t, ['chaos', ['--seconds=20'], /too short for a fault: .* the shortest run is --seconds=31$/m])
  await refused(t, ['chaos:guards', ['--seconds=12'], /the shortest run is --seconds=13$/m])
  await refused(t, ['chaos:guards', ['--without=leak'], /for one alone npm run chaos -- --without=leak$/m])
  for (let seed = 0; seed < 2_000; seed++) {
    for (const kinds of [undefined, WITHOUT_KILLS]) {
      if (plan(seed, 10_000, 10_000 + LONGEST_FAULT_S * 1000, kinds).length === 0) t.fail(`seed ${seed} has no fault`)
    }
  }
})

/** Makes a checkout without packages, with only the files that are read before packages are installed. */
function bare(t: Test) {
  const folder = t.testdir({ bin: {} })
  for (const name of ['ops', 'package.json', 'package-lock.json', 'Procfile', 'load/chaos-options.mjs']) {
    mkdirSync(dirname(join(folder, name)), { recursive: true })
    cpSync(join(ROOT, name), join(folder, name), { recursive: true })
  }
  return folder
}

t.test('--help and a wrong option in a bare checkout: install nothing', async (t) => {
  const folder = bare(t)
  const env = { PATH: join(folder, 'bin') }
  for (const name of ['start', 'test', 'chaos']) {
    t.match(await run(t, name, ['--help'], env, folder), { code: 0, out: /^npm/ }, name)
  }
  await refused(t, ['chaos', ['--nonsense'], /nonsense/, env], folder)
  await refused(t, ['start', ['--nonsense'], /nonsense/, env], folder)
  t.notOk(existsSync(join(folder, 'node_modules')))
})

t.test('silent npm ci: the install logs its progress every few seconds', async (t) => {
  const folder = bare(t)
  const npm = join(folder, 'bin', 'npm')
  // Ends after two lines of progress, however slow this machine is.
  writeFileSync(
    npm,
    '#!/bin/sh\nmkdir -p node_modules/fastify && echo {} >node_modules/fastify/package.json\nsleep 10\n',
  )
  chmodSync(npm, 0o755)
  const PATH = `${join(folder, 'bin')}:${process.env.PATH}`
  const { code, out } = await run(t, 'node ops/dev/install.mjs', [], { PATH }, folder)
  t.equal(code, 0)
  t.match(out, /^install: node_modules is missing: running npm ci$/m)
  const told = out.match(/^install: npm ci: 1 of about \d{3} packages after \d+ s$/gm) ?? []
  t.ok(told.length >= 2 && told.length <= 4, out)
})

t.test('packages: each runs on the oldest supported Node, so npm prints no warning', async (t) => {
  const { packages } = JSON.parse(readFileSync(join(ROOT, 'package-lock.json'), 'utf8'))
  const require = createRequire(import.meta.url)
  const { satisfies } = require('semver')
  for (const node of ['20.19.0', '20.20.2', '22.12.0', '24.0.0']) {
    const unfit = Object.entries<{ optional?: true; engines?: { node?: string } }>(packages)
      // npm leaves out optional packages that do not fit.
      .filter(([, { optional, engines }]) => !optional && engines?.node && !satisfies(node, engines.node))
      .map(([path, { engines }]) => `${path} wants ${engines?.node}`)
    t.same(unfit, [], `Node ${node}`)
  }
})
