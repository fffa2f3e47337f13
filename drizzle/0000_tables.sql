CREATE SEQUENCE "public"."line_seq" INCREMENT BY 1 MINVALUE 1 MAXVALUE 9223372036854775807 START WITH 1 CACHE 1;--> statement-breakpoint
CREATE TABLE "bookings" (
	"id" uuid PRIMARY KEY DEFAULT gen_random_uuid() NOT NULL,
	"seq" bigint DEFAULT nextval('line_seq') NOT NULL,
	"kind" text DEFAULT 'stay' NOT NULL,
	"resource" text COLLATE "C" NOT NULL,
	"customer" text DEFAULT '' NOT NULL,
	"during" "tstzrange" NOT NULL,
	"status" text DEFAULT 'queued' NOT NULL,
	"reason" text,
	"fence" bigint,
	"created_at" timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
	"settled_at" timestamp with time zone,
	CONSTRAINT "bookings_kind_check" CHECK ("bookings"."kind" IN ('stay', 'ride')),
	CONSTRAINT "bookings_during_check" CHECK (NOT isempty("bookings"."during")),
	CONSTRAINT "bookings_status_check" CHECK ("bookings"."status" IN ('queued', 'requested', 'accepted', 'completed', 'rejected', 'declined', 'cancelled', 'expired'))
);
--> statement-breakpoint
CREATE TABLE "charges" (
	"id" uuid PRIMARY KEY DEFAULT gen_random_uuid() NOT NULL,
	"purchase" uuid NOT NULL,
	"purpose" text NOT NULL,
	"provider_id" text,
	"amount" bigint DEFAULT 0 NOT NULL,
	"attempts" smallint DEFAULT 0 NOT NULL,
	"status" text DEFAULT 'pending' NOT NULL,
	"created_at" timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
	"settled_at" timestamp with time zone
);
--> statement-breakpoint
CREATE TABLE "commands" (
	"id" uuid PRIMARY KEY DEFAULT gen_random_uuid() NOT NULL,
	"seq" bigint DEFAULT nextval('line_seq') NOT NULL,
	"queue" text COLLATE "C" NOT NULL,
	"purchase" uuid NOT NULL,
	"command" text NOT NULL,
	"status" text DEFAULT 'queued' NOT NULL,
	"reason" text,
	"met" text,
	"fence" bigint,
	"idempotency_key" text,
	"idempotency_scope" text DEFAULT '' NOT NULL,
	"created_at" timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
	"settled_at" timestamp with time zone,
	CONSTRAINT "commands_command_check" CHECK ("commands"."command" IN ('confirm', 'cancel', 'refund')),
	CONSTRAINT "commands_status_check" CHECK ("commands"."status" IN ('queued', 'done', 'rejected'))
);
--> statement-breakpoint
CREATE TABLE "movements" (
	"id" bigint GENERATED ALWAYS AS IDENTITY (sequence name "movements_id_seq" INCREMENT BY 1 MINVALUE 1 MAXVALUE 9223372036854775807 START WITH 1 CACHE 1),
	"resource" text COLLATE "C" NOT NULL,
	"purchase" uuid,
	"booking" uuid,
	"delta" bigint NOT NULL,
	"reason" text NOT NULL,
	"fence" bigint,
	"idempotency_key" text,
	"idempotency_scope" text DEFAULT '' NOT NULL,
	"created_at" timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
	CONSTRAINT "movements_resource_id_pk" PRIMARY KEY("resource","id")
);
--> statement-breakpoint
CREATE TABLE "purchases" (
	"id" uuid PRIMARY KEY DEFAULT gen_random_uuid() NOT NULL,
	"seq" bigint DEFAULT nextval('line_seq') NOT NULL,
	"queue" text COLLATE "C" NOT NULL,
	"customer" text DEFAULT '' NOT NULL,
	"lines" jsonb NOT NULL,
	"amount" bigint,
	"currency" text,
	"payment" jsonb DEFAULT '{"method":"none"}'::jsonb NOT NULL,
	"hold_seconds" integer,
	"status" text DEFAULT 'queued' NOT NULL,
	"reason" text,
	"fence" bigint,
	"expires_at" timestamp with time zone,
	"idempotency_key" text,
	"idempotency_scope" text DEFAULT '' NOT NULL,
	"request_hash" text,
	"created_at" timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
	"settled_at" timestamp with time zone,
	CONSTRAINT "purchases_status_check" CHECK ("purchases"."status" IN ('queued', 'held', 'confirmed', 'rejected', 'failed', 'cancelled', 'expired', 'refunded')),
	CONSTRAINT "purchases_lines_check" CHECK (jsonb_typeof("purchases"."lines") = 'array'),
	CONSTRAINT "purchases_held_check" CHECK ("purchases"."status" <> 'held' OR "purchases"."expires_at" IS NOT NULL)
);
--> statement-breakpoint
CREATE TABLE "resources" (
	"ref" text COLLATE "C" PRIMARY KEY NOT NULL,
	"kind" text NOT NULL,
	"name" text DEFAULT '' NOT NULL,
	"total" bigint DEFAULT 0 NOT NULL,
	"available" bigint DEFAULT 0 NOT NULL,
	"held" bigint DEFAULT 0 NOT NULL,
	"price" bigint DEFAULT 0 NOT NULL,
	"currency" text DEFAULT 'USD' NOT NULL,
	"version" integer DEFAULT 1 NOT NULL,
	"fence" bigint DEFAULT 0 NOT NULL,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	"updated_at" timestamp with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "resources_available_check" CHECK ("resources"."available" BETWEEN 0 AND "resources"."total"),
	CONSTRAINT "resources_held_check" CHECK ("resources"."held" >= 0 AND "resources"."available" + "resources"."held" <= "resources"."total"),
	CONSTRAINT "resources_kind_check" CHECK ("resources"."kind" IN ('units', 'calendar')),
	CONSTRAINT "resources_price_check" CHECK ("resources"."price" >= 0)
);
--> statement-breakpoint
ALTER TABLE "charges" ADD CONSTRAINT "charges_purchase_purchases_id_fk" FOREIGN KEY ("purchase") REFERENCES "public"."purchases"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "commands" ADD CONSTRAINT "commands_purchase_purchases_id_fk" FOREIGN KEY ("purchase") REFERENCES "public"."purchases"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
CREATE UNIQUE INDEX "bookings_active_ride" ON "bookings" USING btree ("customer") WHERE kind = 'ride' AND status IN ('requested', 'accepted');--> statement-breakpoint
CREATE INDEX "bookings_line" ON "bookings" USING btree ("resource","seq") WHERE status = 'queued';--> statement-breakpoint
CREATE INDEX "bookings_by_customer" ON "bookings" USING btree ("customer","seq");--> statement-breakpoint
CREATE UNIQUE INDEX "charges_effect" ON "charges" USING btree ("purchase","purpose");--> statement-breakpoint
CREATE UNIQUE INDEX "commands_idempotency_key" ON "commands" USING btree ("idempotency_key","idempotency_scope") WHERE idempotency_key IS NOT NULL;--> statement-breakpoint
CREATE INDEX "commands_line" ON "commands" USING btree ("queue","seq") WHERE status = 'queued';--> statement-breakpoint
CREATE INDEX "commands_by_purchase" ON "commands" USING btree ("purchase");--> statement-breakpoint
CREATE UNIQUE INDEX "movements_effect" ON "movements" USING btree ("resource","purchase","reason") WHERE purchase IS NOT NULL;--> statement-breakpoint
CREATE UNIQUE INDEX "movements_booking_effect" ON "movements" USING btree ("resource","booking","reason") WHERE booking IS NOT NULL;--> statement-breakpoint
CREATE UNIQUE INDEX "movements_idempotency_key" ON "movements" USING btree ("idempotency_key","idempotency_scope") WHERE idempotency_key IS NOT NULL;--> statement-breakpoint
CREATE UNIQUE INDEX "purchases_idempotency_key" ON "purchases" USING btree ("idempotency_key","idempotency_scope") WHERE idempotency_key IS NOT NULL;--> statement-breakpoint
CREATE INDEX "purchases_line" ON "purchases" USING btree ("queue","seq") WHERE status = 'queued';--> statement-breakpoint
CREATE INDEX "purchases_by_queue" ON "purchases" USING btree ("queue","id");--> statement-breakpoint
CREATE INDEX "purchases_by_customer" ON "purchases" USING btree ("customer","id");--> statement-breakpoint
CREATE INDEX "purchases_held_lines" ON "purchases" USING gin (lines jsonb_path_ops) WHERE status = 'held';--> statement-breakpoint
CREATE INDEX "purchases_held_wallets" ON "purchases" USING btree ((payment ->> 'account')) WHERE status = 'held';--> statement-breakpoint
CREATE INDEX "purchases_held_until" ON "purchases" USING btree ("expires_at") WHERE status = 'held';--> statement-breakpoint
CREATE INDEX "purchases_carts" ON "purchases" USING gin (lines jsonb_path_ops) WHERE jsonb_array_length(lines) > 1;