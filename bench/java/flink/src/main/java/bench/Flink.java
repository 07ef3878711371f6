package bench;

import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonToken;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.time.Instant;
import java.util.Comparator;
import java.util.Map;
import java.util.Optional;
import java.util.stream.Stream;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.functions.AggregateFunction;
import org.apache.flink.api.common.functions.OpenContext;
import org.apache.flink.api.common.functions.RichFilterFunction;
import org.apache.flink.api.common.serialization.DeserializationSchema;
import org.apache.flink.api.common.state.StateTtlConfig;
import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.connector.kafka.sink.KafkaRecordSerializationSchema;
import org.apache.flink.connector.kafka.sink.KafkaSink;
import org.apache.flink.connector.kafka.source.KafkaSource;
import org.apache.flink.connector.kafka.source.enumerator.initializer.OffsetsInitializer;
import org.apache.flink.connector.kafka.source.reader.deserializer.KafkaRecordDeserializationSchema;
import org.apache.flink.streaming.api.datastream.DataStream;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.windowing.ProcessWindowFunction;
import org.apache.flink.streaming.api.windowing.assigners.TumblingEventTimeWindows;
import org.apache.flink.streaming.api.windowing.triggers.Trigger;
import org.apache.flink.streaming.api.windowing.triggers.TriggerResult;
import org.apache.flink.streaming.api.windowing.windows.TimeWindow;
import org.apache.flink.util.Collector;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.OffsetResetStrategy;

/**
 * The job of bench/field/job.py as the documents of Flink's DataStream API have it: event-time windows with a bounded
 * disorder, heap state, checkpoints to files, object reuse. After a crash it goes on at its last checkpoint.
 */
public final class Flink {
  /** A POJO, so that Flink serialises it by its fields. */
  public static final class Event {
    public String key;
    public String id;
    public String source;
    public long timeMs;
    public double tokens;
  }

  /** A window's running total. */
  public static final class Total {
    public long count;
    public double sum;
  }

  /** A total on its way out. */
  public static final class Told {
    public String key;
    public String body;
  }

  /** Streaming JSON. */
  public static final class Decode implements KafkaRecordDeserializationSchema<Event> {
    private transient JsonFactory factory;

    @Override
    public void open(DeserializationSchema.InitializationContext context) {
      factory = new JsonFactory();
    }

    @Override
    public void deserialize(ConsumerRecord<byte[], byte[]> record, Collector<Event> out) throws IOException {
      Event event = new Event();
      event.key = new String(record.key(), StandardCharsets.UTF_8);
      String time = null;
      try (JsonParser parser = factory.createParser(record.value())) {
        for (JsonToken token = parser.nextToken(); token != null; token = parser.nextToken()) {
          if (token != JsonToken.FIELD_NAME) {
            continue;
          }
          String name = parser.currentName();
          parser.nextToken();
          switch (name) {
            case "id" -> event.id = parser.getText();
            case "source" -> event.source = parser.getText();
            case "time" -> time = parser.getText();
            case "tokens" -> event.tokens = parser.getDoubleValue();
            default -> {}
          }
        }
      }
      event.timeMs = Instant.parse(time).toEpochMilli();
      out.collect(event);
    }

    @Override
    public TypeInformation<Event> getProducedType() {
      return TypeInformation.of(Event.class);
    }
  }

  /** Lets an id pass once: keyed state with a time to live, as the documents on state have it. */
  static final class First extends RichFilterFunction<Event> {
    private transient ValueState<Boolean> seen;

    @Override
    public void open(OpenContext context) {
      ValueStateDescriptor<Boolean> descriptor = new ValueStateDescriptor<>("seen", Boolean.class);
      descriptor.enableTimeToLive(StateTtlConfig.newBuilder(Duration.ofDays(1)).build());
      seen = getRuntimeContext().getState(descriptor);
    }

    @Override
    public boolean filter(Event event) throws IOException {
      if (seen.value() != null) {
        return false;
      }
      seen.update(true);
      return true;
    }
  }

  static final class Add implements AggregateFunction<Event, Total, Total> {
    @Override
    public Total createAccumulator() {
      return new Total();
    }

    @Override
    public Total add(Event event, Total total) {
      total.count++;
      total.sum += event.tokens;
      return total;
    }

    @Override
    public Total getResult(Total total) {
      return total;
    }

    @Override
    public Total merge(Total one, Total other) {
      one.count += other.count;
      one.sum += other.sum;
      return one;
    }
  }

  /** The default trigger, and a running total every so often. */
  static final class Running extends Trigger<Event, TimeWindow> {
    private static final ValueStateDescriptor<Long> NEXT = new ValueStateDescriptor<>("next", Long.class);
    private final long everyMs;

    Running(long everyMs) {
      this.everyMs = everyMs;
    }

    @Override
    public TriggerResult onElement(Event event, long timestamp, TimeWindow window, TriggerContext context)
        throws IOException {
      if (window.maxTimestamp() <= context.getCurrentWatermark()) {
        return TriggerResult.FIRE;
      }
      ValueState<Long> next = context.getPartitionedState(NEXT);
      if (next.value() == null) {
        context.registerEventTimeTimer(window.maxTimestamp());
        long atMs = context.getCurrentProcessingTime() + everyMs;
        context.registerProcessingTimeTimer(atMs);
        next.update(atMs);
      }
      return TriggerResult.CONTINUE;
    }

    @Override
    public TriggerResult onProcessingTime(long timeMs, TimeWindow window, TriggerContext context) {
      context.getPartitionedState(NEXT).clear(); // the next element asks for the next one
      return TriggerResult.FIRE;
    }

    @Override
    public TriggerResult onEventTime(long timeMs, TimeWindow window, TriggerContext context) {
      return timeMs == window.maxTimestamp() ? TriggerResult.FIRE : TriggerResult.CONTINUE;
    }

    @Override
    public void clear(TimeWindow window, TriggerContext context) throws IOException {
      ValueState<Long> next = context.getPartitionedState(NEXT);
      if (next.value() != null) {
        context.deleteProcessingTimeTimer(next.value());
      }
      next.clear();
      context.deleteEventTimeTimer(window.maxTimestamp());
    }
  }

  static final class Tell extends ProcessWindowFunction<Total, Told, String, TimeWindow> {
    @Override
    public void process(String key, Context context, Iterable<Total> totals, Collector<Told> out) {
      Total total = totals.iterator().next();
      boolean closed = context.window().maxTimestamp() <= context.currentWatermark();
      Told told = new Told();
      told.key = key;
      told.body =
          "{\"key\":\"" + key + "\",\"start\":" + context.window().getStart() + ",\"sum\":" + total.sum + ",\"count\":"
              + total.count + ",\"closed\":" + closed + "}";
      out.collect(told);
    }
  }

  public static void main(String[] args) throws Exception {
    Map<String, String> env = System.getenv();
    Path checkpoints = Path.of(env.get("BENCH_STATE"), "checkpoints");
    Configuration config = new Configuration();
    config.setString("execution.checkpointing.interval", "5 s");
    config.setString("execution.checkpointing.storage", "filesystem");
    config.setString("execution.checkpointing.dir", checkpoints.toUri().toString());
    config.setString("execution.checkpointing.externalized-checkpoint-retention", "RETAIN_ON_CANCELLATION");
    config.setString("state.backend.type", "hashmap");
    config.setString("pipeline.object-reuse", "true");
    config.setString("rest.bind-port", "0");
    config.setString("io.tmp.dirs", env.get("BENCH_STATE"));
    lastOf(checkpoints).ifPresent(last -> config.setString("execution.state-recovery.path", last.toUri().toString()));

    StreamExecutionEnvironment flow = StreamExecutionEnvironment.createLocalEnvironment(1, config);
    KafkaSource<Event> usage =
        KafkaSource.<Event>builder()
            .setBootstrapServers(env.get("BENCH_BOOTSTRAP"))
            .setTopics(env.get("BENCH_USAGE"))
            .setGroupId(env.get("BENCH_GROUP"))
            .setStartingOffsets(OffsetsInitializer.committedOffsets(OffsetResetStrategy.EARLIEST))
            .setDeserializer(new Decode())
            .build();
    WatermarkStrategy<Event> clock =
        WatermarkStrategy.<Event>forBoundedOutOfOrderness(Duration.ofMinutes(1))
            .withTimestampAssigner((event, timestamp) -> event.timeMs);
    DataStream<Event> events = flow.fromSource(usage, clock, "usage").uid("usage");
    if (env.get("BENCH_DEDUPE").equals("true")) {
      events = events.keyBy(event -> event.source + "|" + event.id).filter(new First()).uid("dedupe");
    }
    KafkaSink<Told> out =
        KafkaSink.<Told>builder()
            .setBootstrapServers(env.get("BENCH_BOOTSTRAP"))
            .setRecordSerializer(
                KafkaRecordSerializationSchema.<Told>builder()
                    .setTopic(env.get("BENCH_OUT"))
                    .setKeySerializationSchema((Told told) -> told.key.getBytes(StandardCharsets.UTF_8))
                    .setValueSerializationSchema((Told told) -> told.body.getBytes(StandardCharsets.UTF_8))
                    .build())
            .build();
    events
        .keyBy(event -> event.key)
        .window(TumblingEventTimeWindows.of(Duration.ofHours(1)))
        .trigger(new Running(1_000))
        .aggregate(new Add(), new Tell())
        .uid("totals")
        .sinkTo(out)
        .uid("out");
    flow.execute("field");
  }

  /** The newest complete checkpoint of an earlier life. */
  private static Optional<Path> lastOf(Path checkpoints) throws IOException {
    if (!Files.exists(checkpoints)) {
      return Optional.empty();
    }
    try (Stream<Path> files = Files.walk(checkpoints)) {
      return files
          .filter(file -> file.getFileName().toString().equals("_metadata"))
          .max(Comparator.comparingLong(file -> file.toFile().lastModified()))
          .map(Path::getParent);
    }
  }
}
