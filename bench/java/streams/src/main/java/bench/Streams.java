package bench;

import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonToken;
import java.nio.ByteBuffer;
import java.time.Duration;
import java.time.Instant;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.common.serialization.Deserializer;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.serialization.Serializer;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.KStream;
import org.apache.kafka.streams.kstream.KTable;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.kstream.Suppressed;
import org.apache.kafka.streams.kstream.TimeWindows;
import org.apache.kafka.streams.kstream.Windowed;
import org.apache.kafka.streams.processor.TimestampExtractor;
import org.apache.kafka.streams.processor.api.FixedKeyProcessor;
import org.apache.kafka.streams.processor.api.FixedKeyProcessorContext;
import org.apache.kafka.streams.processor.api.FixedKeyRecord;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.Stores;
import org.apache.kafka.streams.state.WindowStore;

/** The job of bench/field/job.py as the developer guide of Kafka Streams has it: at least once, changelogs on. */
public final class Streams {
  record Event(String id, String source, long timeMs, double tokens) {}

  record Total(long count, double sum) {
    Total plus(Event event) {
      return new Total(count + 1, sum + event.tokens);
    }
  }

  /** The event's own time: brokers here stamp records when they append them. */
  public static final class EventTime implements TimestampExtractor {
    @Override
    public long extract(ConsumerRecord<Object, Object> record, long partitionTime) {
      return ((Event) record.value()).timeMs;
    }
  }

  /** Lets an id pass once. Ids are kept for as long as the run: the measured stretch is shorter than any retention. */
  static final class Deduplicate implements FixedKeyProcessor<String, Event, Event> {
    private FixedKeyProcessorContext<String, Event> context;
    private KeyValueStore<String, Long> seen;

    @Override
    public void init(FixedKeyProcessorContext<String, Event> context) {
      this.context = context;
      this.seen = context.getStateStore("ids");
    }

    @Override
    public void process(FixedKeyRecord<String, Event> record) {
      Event event = record.value();
      if (seen.putIfAbsent(event.source + "|" + event.id, event.timeMs) == null) {
        context.forward(record);
      }
    }
  }

  public static void main(String[] args) throws InterruptedException {
    Map<String, String> env = System.getenv();
    boolean inMemory = env.get("BENCH_STORE").equals("memory");
    boolean dedupe = env.get("BENCH_DEDUPE").equals("true");
    Properties config = new Properties();
    config.put(StreamsConfig.APPLICATION_ID_CONFIG, env.get("BENCH_GROUP"));
    config.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, env.get("BENCH_BOOTSTRAP"));
    config.put(StreamsConfig.STATE_DIR_CONFIG, env.get("BENCH_STATE"));
    config.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, 1_000);
    config.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, 64L << 20);
    config.put(StreamsConfig.consumerPrefix(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG), "earliest");

    StreamsBuilder builder = new StreamsBuilder();
    KStream<String, Event> events =
        builder.stream(
            env.get("BENCH_USAGE"),
            Consumed.with(Serdes.String(), events()).withTimestampExtractor(new EventTime()));
    if (dedupe) {
      builder.addStateStore(
          Stores.keyValueStoreBuilder(
                  inMemory ? Stores.inMemoryKeyValueStore("ids") : Stores.persistentKeyValueStore("ids"),
                  Serdes.String(),
                  Serdes.Long())
              .withCachingEnabled());
      events = events.processValues(Deduplicate::new, "ids");
    }
    Duration size = Duration.ofHours(1);
    Duration grace = Duration.ofMinutes(1);
    Materialized<String, Total, WindowStore<Bytes, byte[]>> store =
        inMemory
            ? Materialized.<String, Total>as(Stores.inMemoryWindowStore("totals", Duration.ofHours(2), size, false))
            : Materialized.<String, Total, WindowStore<Bytes, byte[]>>as("totals").withRetention(Duration.ofHours(2));
    KTable<Windowed<String>, Total> totals =
        events
            .groupByKey(Grouped.with(Serdes.String(), events()))
            .windowedBy(TimeWindows.ofSizeAndGrace(size, grace))
            .aggregate(
                () -> new Total(0, 0),
                (key, event, total) -> total.plus(event),
                store.withKeySerde(Serdes.String()).withValueSerde(totals()));
    send(totals.toStream(), false, env.get("BENCH_OUT"));
    send(
        totals.suppress(Suppressed.untilWindowCloses(Suppressed.BufferConfig.unbounded())).toStream(),
        true,
        env.get("BENCH_OUT"));

    KafkaStreams streams = new KafkaStreams(builder.build(), config);
    CountDownLatch ended = new CountDownLatch(1);
    streams.setUncaughtExceptionHandler(
        error -> {
          error.printStackTrace();
          ended.countDown();
          return org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse
              .SHUTDOWN_CLIENT;
        });
    Runtime.getRuntime().addShutdownHook(new Thread(() -> streams.close(Duration.ofSeconds(5))));
    streams.start();
    ended.await();
    System.exit(1);
  }

  private static void send(KStream<Windowed<String>, Total> totals, boolean closed, String topic) {
    totals
        .map(
            (window, total) ->
                org.apache.kafka.streams.KeyValue.pair(
                    window.key(),
                    "{\"key\":\"" + window.key() + "\",\"start\":" + window.window().start() + ",\"sum\":" + total.sum
                        + ",\"count\":" + total.count + ",\"closed\":" + closed + "}"))
        .to(topic, Produced.with(Serdes.String(), Serdes.String()));
  }

  private static Serde<Event> events() {
    JsonFactory factory = new JsonFactory();
    Deserializer<Event> decode = (topic, data) -> decode(factory, data);
    Serializer<Event> encode = (topic, event) -> {
      throw new UnsupportedOperationException("events are only read");
    };
    return Serdes.serdeFrom(encode, decode);
  }

  /** Streaming, the fastest way that Jackson has. */
  static Event decode(JsonFactory factory, byte[] data) {
    String id = null;
    String source = null;
    String time = null;
    double tokens = 0;
    try (JsonParser parser = factory.createParser(data)) {
      for (JsonToken token = parser.nextToken(); token != null; token = parser.nextToken()) {
        if (token != JsonToken.FIELD_NAME) {
          continue;
        }
        String name = parser.currentName();
        parser.nextToken();
        switch (name) {
          case "id" -> id = parser.getText();
          case "source" -> source = parser.getText();
          case "time" -> time = parser.getText();
          case "tokens" -> tokens = parser.getDoubleValue();
          default -> {}
        }
      }
    } catch (java.io.IOException error) {
      throw new java.io.UncheckedIOException(error);
    }
    return new Event(id, source, Instant.parse(time).toEpochMilli(), tokens);
  }

  private static Serde<Total> totals() {
    Serializer<Total> encode =
        (topic, total) ->
            total == null ? null : ByteBuffer.allocate(16).putLong(total.count).putDouble(total.sum).array();
    Deserializer<Total> decode =
        (topic, data) -> {
          if (data == null) {
            return null;
          }
          ByteBuffer buffer = ByteBuffer.wrap(data);
          return new Total(buffer.getLong(), buffer.getDouble());
        };
    return Serdes.serdeFrom(encode, decode);
  }
}
