/**
 * Compares docker-compose.yml, Dockerfile and Procfile with the code. Docker may be missing, so the test itself does
 * what a container would do: it takes the files of the image and the packages of a production install, and runs the
 * commands and health checks as they are written.
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, symlinkSync } from 'node:fs'
import { dirname, join } from 'node:path'
import t, { type Test } from 'tap'
import { parse } from 'yaml'
import { ROOT } from '../../ops/dev/install.mjs'
import { anyFreePort } from '../../ops/dev/process-registry.mjs'
import { readConfig } from '../../src/shared/config.ts'
import { CONNECTIONS } from '../../src/shared/db/client.ts'
import { card } from '../support/api-client.ts'
import { openWorld, until } from '../support/environment.ts'

// The image's processes load TypeScript as in a container, which may take a minute on a busy machine.
t.setTimeout(400_000)

interface Service {
  build?: string
  command?: string[]
  container_name?: string
  depends_on?: Record<string, { condition: string }>
  environment?: Record<string, string | number>
  healthcheck?: { test: string[] }
  image: string
  init?: boolean
  ports?: string[]
  profiles?: string[]
  read_only?: boolean
  stop_grace_period?: string
  user?: string
  volumes?: string[]
}

const read = (path: string) => readFileSync(join(ROOT, path), 'utf8')
const text = read('docker-compose.yml')
const services: Record<string, Service> = parse(text, { merge: true }).services
const ours = Object.entries(services).filter(([, service]) => service.build !== undefined)
const service = (name: string): Service => services[name] ?? t.bailout(`there is no service ${name}`) ?? ({} as Service)
const scripts: Record<string, string> = JSON.parse(read('package.json')).scripts
const profiles = new Set(Object.values(services).flatMap((one) => one.profiles ?? []))

/** Returns what Compose makes of `${NAME:-default}` and `$$` if no variable is set. */
const settled = (value: string | number) =>
  String(value)
    .replaceAll(/\$\{\w+(?::-([^}]*))?\}/g, (_, fallback = '') => fallback)
    .replaceAll('$$', '$')
const environment = (name: string) =>
  Object.fromEntries(Object.entries(service(name).environment ?? {}).map(([key, value]) => [key, settled(value)]))

t.test('our services: each runs a script of package.json, with variables that the code reads', async (t) => {
  t.same(
    ours.map(([name]) => name),
    ['api', 'worker', 'migrate', 'sandbox'],
  )
  for (const [name, { command = [] }] of ours) {
    t.equal(command.join(' '), scripts[name]?.replace(/^exec /, ''), `${name} is npm run ${name}`)
    const entry = command.at(-1) ?? ''
    const code = `${read('src/shared/config.ts')}${read(entry)}`
    for (const variable of Object.keys(environment(name))) {
      t.match(code, new RegExp(`\\b${variable}\\b`), `${name}: ${variable} is read`)
    }
  }
  const [, HOST = ''] = /^ENV HOST=(\S+)$/m.exec(read('Dockerfile')) ?? []
  for (const name of ['api', 'worker'] as const) {
    t.equal(readConfig({ HOST, ...environment(name) }).host, '0.0.0.0', `${name} is reached from outside its container`)
    t.equal(readConfig(environment(name)).host, '127.0.0.1', `${name} without keys is for this machine alone`)
    const production = { ...environment(name), NODE_ENV: 'production', API_KEYS: 'key', ADMIN_KEYS: 'admin' }
    t.equal(readConfig(production).host, '0.0.0.0', `${name} in production is for others`)
  }
  const procfile = read('Procfile').trim().split('\n')
  t.same(
    procfile.map((line) => line.split(':')[0]).sort(),
    ['api', 'sandbox', 'worker'],
    'the Procfile has what stays up, and nothing else',
  )
  for (const line of procfile) t.match(line, /^(\w+): npm run \1$/)
})

t.test('numbers of connections in the documents: equal to those that the code opens', async (t) => {
  const sum = (pools: Record<string, number>) => Object.values(pools).reduce((all, one) => all + one, 0)
  const [api, worker] = [sum(CONNECTIONS.api), sum(CONNECTIONS.worker)]
  const always = api - CONNECTIONS.api.dashboard
  t.match(read('docs/deploy.md'), `${worker} connections a worker and ${always} an API, one more while`)
  t.match(
    read('docs/scaling.md'),
    `opens ${always} or ${api} Postgres connections, each worker ${worker}: 20 of each are `,
  )
  t.match(read('docs/scaling.md'), `20 of each are ${20 * (api + worker)}.`)
  t.match(text, `# ${worker} connections a worker, ${api} an API.`)
  const limit = Number(/max_connections=(\d+)/.exec(text)?.[1])
  t.ok(api + 8 * worker < limit, `eight workers and an API fit into ${limit}`)
  // Each pool of a process is in the table. An intake has one connection per table, and one more while it withdraws
  // rows that it gave up.
  const sources = ['src/api', 'src/workers'].flatMap((folder) =>
    readdirSync(join(ROOT, folder), { recursive: true, encoding: 'utf8' })
      .filter((file) => file.endsWith('.ts') && file !== 'queue/intake.ts')
      .map((file) => read(join(folder, file))),
  )
  for (const source of sources) {
    for (const [, max = ''] of source.matchAll(/openDb\([^)]*?max: ([^,\s]+)/gs)) t.match(max, /^CONNECTIONS\./)
  }
})

t.test('worker: has neither a host port nor a name, so that eight can run', async (t) => {
  const worker = service('worker')
  t.equal(worker.ports, undefined)
  t.equal(worker.container_name, undefined)
  t.equal(worker.profiles, undefined)
  for (const [name, { container_name }] of Object.entries(services)) t.equal(container_name, undefined, name)
})

t.test('containers: stopped only after their process has given up, and started after their dependencies', async (t) => {
  for (const [name, { stop_grace_period = '10s' }] of ours.filter(([name]) => name === 'api' || name === 'worker')) {
    const grace_ms = Number.parseInt(stop_grace_period, 10) * 1000
    t.ok(readConfig(environment(name)).shutdown_ms < grace_ms, `${name}: as it is set`)
    const { SHUTDOWN_MS: _, ...unset } = environment(name)
    t.ok(readConfig(unset).shutdown_ms < grace_ms, `${name}: by default`)
  }
  for (const [name, { depends_on = {} }] of Object.entries(services)) {
    for (const [other, { condition }] of Object.entries(depends_on)) {
      t.ok(services[other], `${name} waits for ${other}, which exists`)
      if (condition === 'service_healthy') t.ok(services[other]?.healthcheck, `${other} tells whether it is healthy`)
    }
  }
  for (const name of ['api', 'worker']) {
    t.match(service(name).depends_on, {
      postgres: { condition: 'service_healthy' },
      redis: { condition: 'service_healthy' },
      migrate: { condition: 'service_completed_successfully' },
    })
  }
  t.match(service('migrate').depends_on, { postgres: { condition: 'service_healthy' } })
})

t.test(
  'containers: Redis persists its data, none runs as root or writes to its image, ports are on loopback',
  async (t) => {
    t.match(service('redis').command?.join(' '), /--appendonly yes .*--maxmemory-policy noeviction/)
    const quorum = Object.entries(services).filter(([, one]) => one.profiles?.includes('redlock'))
    t.equal(quorum.length, 5)
    for (const [name, { command }] of quorum) t.match(command?.join(' '), /--maxmemory-policy noeviction/, name)
    const LOCK_REDIS_URLS = quorum.map(([name]) => `redis://${name}:6379`).join(',')
    t.match(readConfig({ ...environment('worker'), LOCK_REDIS_URLS }).lock, { backend: 'redlock' })
    for (const [name, one] of Object.entries(services)) {
      t.equal(one.read_only, true, `${name} is read-only`)
      // The images of the other services set a user themselves.
      if (!/^(prom|grafana)\//.test(one.image)) t.match(one.user, /^(node|redis|postgres)$/, `${name} is not root`)
      for (const port of one.ports ?? []) t.match(settled(port), /^127\.0\.0\.1:/, `${name} is on loopback`)
      for (const volume of one.volumes ?? []) {
        const [from = ''] = volume.split(':')
        if (from.startsWith('../')) t.ok(existsSync(join(ROOT, from)), `${name}: ${from} is there`)
      }
    }
  },
)

t.test('Prometheus and Grafana: every configured target and file exists', async (t) => {
  const { scrape_configs, rule_files } = parse(read('ops/deploy/prometheus/prometheus.yml'))
  const ports: Record<string, string | undefined> = {
    api: environment('api').PORT,
    worker: environment('worker').METRICS_PORT,
  }
  for (const { job_name, dns_sd_configs } of scrape_configs) {
    t.match(dns_sd_configs, [{ names: [job_name], port: Number(ports[job_name]) }], `${job_name} is found by its name`)
  }
  for (const file of rule_files) t.ok(existsSync(join(ROOT, 'ops/deploy/prometheus', file)), file)
  t.ok(service('prometheus').command?.includes('--config.file=/etc/prometheus/prometheus.yml'))
  const { datasources } = parse(read('ops/deploy/grafana/datasources/prometheus.yml'))
  t.equal(datasources[0].url, 'http://prometheus:9090')
  const mounted = (path: string) => path.replace('/etc/grafana/provisioning', 'ops/deploy/grafana')
  t.ok(existsSync(join(ROOT, mounted(environment('grafana').GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH ?? ''))))
  const { providers } = parse(read('ops/deploy/grafana/dashboards/provider.yml'))
  t.ok(existsSync(join(ROOT, mounted(providers[0].options.path), 'holdfast.json')))
})

t.test('k6: runs a mounted script against the API, and its types have the same version', async (t) => {
  const { command = [], volumes = [], depends_on, image, user, profiles } = service('k6')
  t.same(profiles, ['load'], 'it runs when it is asked for')
  const [from = '', to = '', mode] = (volumes[0] ?? '').split(':')
  t.equal(mode, 'ro')
  const [verb, script = ''] = command
  t.equal(verb, 'run')
  t.ok(existsSync(join(ROOT, script.replace(to, from))), `${script} is there`)
  t.match(user, /^[1-9]\d*$/, 'it is not root')
  const { BASE_URL = '', ...others } = environment('k6')
  t.match(new URL(BASE_URL), { hostname: 'api', port: environment('api').PORT })
  for (const variable of ['BASE_URL', ...Object.keys(others)]) t.match(read('load/scripts/api.js'), `__ENV.${variable}`)
  t.match(depends_on, { api: { condition: 'service_healthy' }, worker: { condition: 'service_healthy' } })
  const version = (text = '') => text.split('.').slice(0, 2).join('.')
  t.equal(version(image.split(':')[1]), version(JSON.parse(read('package.json')).devDependencies['@types/k6']))
})

t.test('commands in the documents: each exists', async (t) => {
  const pages = readdirSync(join(ROOT, 'docs')).filter((file) => file.endsWith('.md'))
  for (const file of ['README.md', 'CONTRIBUTING.md', 'docker-compose.yml', ...pages.map((page) => `docs/${page}`)]) {
    for (const [, command = ''] of read(file).matchAll(/(docker compose [^`#\n]+)/g)) {
      for (const [, profile = ''] of command.matchAll(/--profile (\S+)/g)) t.ok(profiles.has(profile), command)
      for (const [, name = ''] of command.matchAll(/--scale (\w+)=/g)) t.ok(services[name], command)
      const [, name] = /(?:exec|run --rm)(?: -\S+| --no-deps)* ([\w-]+)/.exec(command) ?? []
      if (name) t.ok(services[name], command)
    }
    for (const [, name = ''] of read(file).matchAll(/npm run ([\w:]+)/g))
      t.ok(scripts[name], `${file}: npm run ${name}`)
  }
  for (const [, variable = ''] of read('docs/deploy.md').matchAll(/`([A-Z][A-Z_]+)(?:=[^`]*)?`/g)) {
    t.ok(text.includes(variable), `docs/deploy.md: ${variable} is a variable of docker-compose.yml`)
  }
})

t.test('docker-compose.yml: Compose itself accepts it', async (t) => {
  const compose = [['docker', 'compose'], ['docker-compose']].find(
    ([command = '', ...args]) => spawnSync(command, [...args, 'version'], { stdio: 'ignore' }).status === 0,
  )
  if (!compose) return t.pass('no Docker Compose on this machine: the file was only read')
  const [command = '', ...args] = compose
  const all = [...profiles].flatMap((profile) => ['--profile', profile])
  const { status, stderr } = spawnSync(command, [...args, ...all, 'config', '-q'], { cwd: ROOT, encoding: 'utf8' })
  t.equal(status, 0, stderr)
})

/**
 * Makes the folder that the Dockerfile makes: its COPY lines, and the node_modules that `npm ci --omit=dev` installs.
 */
function image(t: Test): string {
  const folder = join(process.env.HOLDFAST_TEST_FOLDER ?? t.testdir({}), `image-${process.pid}`)
  t.teardown(() => rmSync(folder, { recursive: true, force: true }))
  const allowed = read('.dockerignore')
    .split('\n')
    .filter((line) => line.startsWith('!'))
  const lets = (path: string) =>
    allowed.some((line) =>
      new RegExp(`^${line.slice(1).replaceAll('.', '\\.').replaceAll('*', '[^/]*')}(/|$)`).test(path),
    )
  const [, last = ''] = read('Dockerfile').split(/^FROM .* AS packages$/m)
  const stages = [last.slice(0, last.indexOf('\nFROM ')), last.slice(last.indexOf('\nFROM '))]
  for (const stage of stages) {
    for (const [, what = ''] of stage.matchAll(/^COPY (?!--from)(.+)$/gm)) {
      const sources = what.split(' ')
      const to = sources.pop() ?? ''
      for (const source of sources) {
        t.ok(existsSync(join(ROOT, source)), `the image's ${source} is there`)
        t.ok(lets(source), `.dockerignore lets ${source} through`)
        if (stage !== stages[1]) continue
        const target = join(folder, to.endsWith('/') ? join(to, source.split('/').at(-1) ?? '') : to)
        cpSync(join(ROOT, source), to === '../' ? join(folder, source) : target, { recursive: true })
      }
    }
  }
  const { packages } = JSON.parse(read('package-lock.json')) as { packages: Record<string, { dev?: true }> }
  for (const [path, { dev }] of Object.entries(packages)) {
    if (dev || path === '' || path.lastIndexOf('node_modules/') > 0 || !existsSync(join(ROOT, path))) continue
    mkdirSync(dirname(join(folder, path)), { recursive: true })
    symlinkSync(join(ROOT, path), join(folder, path))
  }
  return folder
}

/** Returns every file below the folder except node_modules, with its modification time. */
const written = (folder: string) =>
  readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name))
    .map((path) => `${path} ${statSync(path).mtimeMs}`)
    .sort()

t.test('image: sells by card, and its processes write nothing into it', async (t) => {
  const folder = image(t)
  const before = written(folder)
  const world = await openWorld(t)
  const ports = { api: await anyFreePort(), worker: await anyFreePort(), sandbox: await anyFreePort() }
  const sandbox = `http://127.0.0.1:${ports.sandbox}`
  const started: Record<string, { child: ChildProcess; ended: Promise<number | null>; said: () => string }> = {}
  t.teardown(() => Object.values(started).forEach(({ child }) => void child.kill('SIGKILL')))

  /** Starts the service's command with its environment, except the variables whose servers are elsewhere here. */
  function start(name: string, more: Record<string, string> = {}) {
    const { PATH = '', HOME = '' } = process.env
    const [, ...args] = service(name).command ?? []
    const keys = { NODE_ENV: 'production', API_KEYS: 'key', ADMIN_KEYS: 'admin', HOST: '127.0.0.1', LAB: '' }
    const { DATABASE_URL, REDIS_URL, REDIS_PREFIX } = world.env
    const env = { ...environment(name), PATH, HOME, DATABASE_URL, REDIS_URL, REDIS_PREFIX, ...keys, ...more }
    const child = spawn(process.execPath, args, { cwd: folder, env, stdio: ['ignore', 'pipe', 'pipe'] })
    let text = ''
    for (const stream of [child.stdout, child.stderr]) {
      stream.on('data', (chunk) => {
        text += chunk
      })
    }
    const ended = new Promise<number | null>((resolve) => child.once('close', resolve))
    started[name] = { child, ended, said: () => text }
    return started[name]
  }
  /** Runs the service's health check at its port here, once the service is up. */
  async function healthy(name: 'api' | 'worker' | 'sandbox', its_port: string) {
    await until(async () => (await fetch(`http://127.0.0.1:${ports[name]}/livez`)).ok, {
      timeout_ms: 180_000,
      what: `${name} to answer`,
    }).catch((error) => {
      t.comment(started[name]?.said())
      throw error
    })
    const [, , ...args] = service(name).healthcheck?.test ?? []
    t.ok(args.join(' ').includes(`:${its_port}/`), `${name} is asked at its own port`)
    const check = (port: number) => {
      const here = args.map((arg) => arg.replace(`:${its_port}/`, `:${port}/`))
      return spawnSync(process.execPath, here, { stdio: 'ignore' }).status
    }
    t.equal(check(ports[name]), 0, `${name} is healthy`)
    if (name === 'api') t.not(check(9), 0, 'a port where no API listens is not healthy')
  }

  const migrate = start('migrate')
  t.equal(await migrate.ended, 0, migrate.said())
  const { SANDBOX_URL = '' } = environment('sandbox')
  start('sandbox', { SANDBOX_URL: sandbox, SANDBOX_WEBHOOK_URL: `http://127.0.0.1:${ports.api}/api/webhooks/stripe` })
  start('api', { PORT: String(ports.api), SANDBOX_URL: sandbox })
  start('worker', { METRICS_PORT: String(ports.worker), SANDBOX_URL: sandbox })
  await healthy('api', environment('api').PORT ?? '')
  await healthy('worker', environment('worker').METRICS_PORT ?? '')
  await healthy('sandbox', new URL(SANDBOX_URL).port)

  const send = (method: string, path: string, body: object, headers = {}) =>
    fetch(`http://127.0.0.1:${ports.api}${path}`, {
      method,
      headers: { 'content-type': 'application/json', 'x-api-key': 'admin', ...headers },
      body: JSON.stringify(body),
    })
  const price = { amount: 500, currency: 'USD' }
  const put = await send('PUT', '/api/resources/product/image', { name: 'one', kind: 'units', total: 1, price })
  t.equal(put.status, 201)
  const lines = [{ resource: 'product:image', units: 1 }]
  const buy = { customer: 'ada', lines, payment: card('tok_visa') }
  const bought = await send('POST', '/api/purchases', buy, { prefer: 'wait=20' })
  t.match(await bought.json(), { status: 'confirmed', amount: 500 })

  for (const name of ['api', 'worker', 'sandbox']) {
    started[name]?.child.kill('SIGTERM')
    t.equal(await started[name]?.ended, 0, `${name} has stopped by itself`)
  }
  t.same(written(folder), before, 'nothing was written but to /tmp')
})
