/**
 * The Fastify instance, without its process: buildApp registers plugins and routes by hand, in this order. Invariant: what
 * applies to every request (errors, headers, keys, limits) is registered before the routes, so that no route lacks it.
 */
import Fastify, { type FastifyBaseLogger, type FastifyInstance, LogController } from 'fastify'
import { type Health, healthRoutes } from '../shared/health.ts'
import type { Log } from '../shared/log.ts'
import { knowPaths } from '../shared/methods.ts'
import { ProblemSchema, sendProblem } from '../shared/problem.ts'
import { type ConnectionDrain, createConnectionDrain } from '../shared/shutdown.ts'
import { type ResourceDetailOptions, resourceDetailRoutes } from './dashboard/resource-detail.ts'
import { type DashboardOptions, dashboardRoutes } from './dashboard/routes.ts'
import { type SearchOptions, searchRoutes } from './dashboard/search.ts'
import { type LabOptions, labRoutes } from './lab/routes.ts'
import { requireAdminPassword } from './plugins/auth.ts'
import { compileSerializers } from './plugins/compile-once.ts'
import { answerErrors, refuseConnection, toProblem } from './plugins/errors.ts'
import { documentRoutes } from './plugins/openapi.ts'
import { protect, type SecurityOptions } from './plugins/security.ts'
import { refuseUnknown } from './plugins/strict-fields.ts'
import { serveSwaggerUi } from './plugins/swagger-ui.ts'
import { BODY_LIMIT, compileValidators, parseBodies } from './plugins/validation.ts'
import { type AvailabilityOptions, availabilityRoutes } from './routes/availability.ts'
import { BookingSchema } from './routes/booking-view.ts'
import { type BookingOptions, bookingRoutes } from './routes/bookings.ts'
import { type BullBoard, bullBoardRoutes } from './routes/bull-board.ts'
import { type EventOptions, eventRoutes } from './routes/events.ts'
import { type HistoryOptions, historyRoutes } from './routes/history.ts'
import { HistorySchema } from './routes/history-schema.ts'
import { type LeaseOptions, leaseRoutes } from './routes/leases.ts'
import { type LockOptions, lockRoutes } from './routes/locks.ts'
import { PurchaseSchema } from './routes/purchase-view.ts'
import { type PurchaseOptions, purchaseRoutes } from './routes/purchases.ts'
import { ResourceSchema } from './routes/resource-view.ts'
import { type ResourceOptions, resourceRoutes } from './routes/resources.ts'
import { type StockOptions, stockRoutes } from './routes/restock.ts'
import { type StripeWebhookOptions, stripeWebhookRoutes } from './routes/stripe-webhook.ts'
import { EndpointSchema, type WebhookEndpointOptions, webhookEndpointRoutes } from './routes/webhook-endpoints.ts'

declare module 'fastify' {
  interface FastifyInstance {
    /** refuses new work and waits for open requests at shutdown */
    door: ConnectionDrain
  }
}

// maxParamLength is longer than any URL that Node accepts, so that the schema, not the router, refuses an id that is too long:
// the schema's error has a message.
const ROUTER = { ignoreTrailingSlash: true, maxParamLength: 16_384 }

/** What each route file needs. */
export interface RouteOptions {
  resources: ResourceOptions
  stock: StockOptions
  purchases: PurchaseOptions
  bookings: BookingOptions
  history: HistoryOptions
  availability: AvailabilityOptions
  stripeWebhook: StripeWebhookOptions
  events: EventOptions
  webhookEndpoints: WebhookEndpointOptions
  leases: LeaseOptions
  locks: LockOptions
  /** undefined: the lab is disabled */
  lab: LabOptions | undefined
  dashboard: DashboardOptions
  search: SearchOptions
  resourceDetail: ResourceDetailOptions
  openBullBoard(): Promise<BullBoard>
}

export interface AppOptions extends SecurityOptions {
  log: Log
  health: Health
  routes: RouteOptions
  /** plugin that is registered before the routes; absent: requests are not traced */
  trace?(app: FastifyInstance): Promise<void>
}

export async function buildApp({ config, rates, log, health, routes, trace }: AppOptions): Promise<FastifyInstance> {
  const app = createApp(log)
  app.decorate('door', createConnectionDrain(app))
  await trace?.(app)
  compileValidators(app)
  answerErrors(app, log, () => health.metrics.errors.inc({ kind: 'response' }))
  const paths = knowPaths(app, ROUTER)
  await protect(app, { config, rates })
  paths.refuseUnknown()
  parseBodies(app)
  for (const schema of [ProblemSchema, ResourceSchema, PurchaseSchema, BookingSchema, HistorySchema, EndpointSchema]) {
    app.addSchema(schema)
  }
  compileSerializers(app)
  await documentRoutes(app)
  await serveSwaggerUi(app)
  refuseUnknown(app)
  healthRoutes(app, health)
  await app.register(resourceRoutes, routes.resources)
  await app.register(stockRoutes, routes.stock)
  await app.register(purchaseRoutes, routes.purchases)
  await app.register(bookingRoutes, routes.bookings)
  await app.register(historyRoutes, routes.history)
  await app.register(availabilityRoutes, routes.availability)
  await app.register(stripeWebhookRoutes, routes.stripeWebhook)
  await app.register(eventRoutes, routes.events)
  await app.register(webhookEndpointRoutes, routes.webhookEndpoints)
  await app.register(leaseRoutes, routes.leases)
  await app.register(lockRoutes, routes.locks)
  if (routes.lab) await app.register(labRoutes, routes.lab)
  await app.register(dashboardRoutes, routes.dashboard)
  await app.register(searchRoutes, routes.search)
  await app.register(resourceDetailRoutes, routes.resourceDetail)
  await app.register(bullBoardRoutes, { open: routes.openBullBoard, authorize: requireAdminPassword(config) })
  app.get('/openapi.json', { schema: { hide: true } }, async () => app.swagger())
  await app.ready()
  return app
}

const createApp = (log: Log) =>
  Fastify({
    loggerInstance: log as FastifyBaseLogger,
    // A worker logs one line per batch, which says more than Fastify's two lines per request; a request is logged at debug.
    logController: new LogController({ disableRequestLogging: true }),
    bodyLimit: BODY_LIMIT,
    // Limits the time in which a request arrives. Handlers have their own limits (breakers, leases, Prefer: wait): a timer and
    // an AbortController for each request would cost more than the rest of a purchase's validation.
    requestTimeout: 30_000,
    routerOptions: ROUTER,
    frameworkErrors: (error, request, reply) => sendProblem(toProblem(error), request, reply),
    clientErrorHandler: refuseConnection,
    forceCloseConnections: 'idle',
    // Requests that arrive during shutdown are served as usual: Fastify's own 503 is not a problem of the contract.
    return503OnClosing: false,
    // HEAD is answered wherever GET is; the OpenAPI document omits it.
    exposeHeadRoutes: true,
  })
